"""Rebuilding read models from a real log: same digests, a tampered row named, the swap."""

import asyncio
import contextlib
import dataclasses

import pytest
from tests.appending import append

from loom.decider import Position, Recorded, Statement
from loom.kit.contract import Service
from loom.kit.projector import Projector
from loom.kit.rebuild import Mismatch, rebuild
from loom.v1 import common_pb2

TABLES = (
    "CREATE TABLE notes (stream text NOT NULL, number bigint NOT NULL, said text NOT NULL,"
    " PRIMARY KEY (stream, number));"
)


def project(recorded: Recorded) -> list[Statement]:
    row = (recorded.stream, recorded.version, recorded.event.command_type)
    return [Statement("INSERT INTO notes VALUES (%s, %s, %s)", row)]


def nothing(*_) -> None:
    return None


SERVICE = Service(
    name="checkpoint",
    contract=common_pb2,
    initial=nothing,
    decide=nothing,
    resource=nothing,
    evolve=nothing,
    project=project,
    schema=TABLES,
)


@pytest.fixture
async def projector(store, bus, topic):
    found = Projector(store, bus, topic, 0, project)
    task = asyncio.create_task(found.run())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def tell(projector, writer, topic, commands) -> None:
    offsets = await append(writer, commands)
    assert await projector.reached(Position(topic, 0, offsets[-1]), 20)


async def run(store, statement: str) -> list[tuple]:
    async with store.connection() as connection:
        found = await connection.execute(statement)
        return [tuple(row.values()) for row in await found.fetchall()] if found.description else []


async def test_the_log_gives_the_same_tables_and_live_ones_go_on(
    store, bus, topic, writer, note, projector
):
    await tell(projector, writer, topic, [note("a", n, "x") for n in range(1, 101)])
    (compared,) = await rebuild(SERVICE, bus, store)
    assert (compared.table, compared.rows) == ("notes", 100)
    assert compared.live == compared.rebuilt
    await tell(projector, writer, topic, [note("a", 101, "x")])
    assert await run(store, "SELECT count(*) FROM notes") == [(101,)]


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE notes SET said = 'y' WHERE number = 7",
        "DELETE FROM notes WHERE number = 7",
        "INSERT INTO notes VALUES ('z', 1, 'x')",
    ],
)
async def test_a_tampered_row_is_found_and_its_table_named(
    store, bus, topic, writer, note, projector, tampering
):
    await tell(projector, writer, topic, [note("a", n, "x") for n in range(1, 11)])
    await run(store, tampering)
    (compared,) = await rebuild(SERVICE, bus, store)
    assert compared.live != compared.rebuilt
    with pytest.raises(Mismatch, match="notes differ from the log"):
        await rebuild(SERVICE, bus, store, swap=True)
    await tell(projector, writer, topic, [note("a", 11, "x")])
    await rebuild(SERVICE, bus, store, replace=True)
    (compared,) = await rebuild(SERVICE, bus, store)
    assert compared.live == compared.rebuilt


async def test_after_the_swap_the_new_tables_go_on_and_the_old_ones_stay(
    store, bus, topic, writer, note, projector
):
    await tell(projector, writer, topic, [note("a", n, "x") for n in range(1, 11)])
    await rebuild(SERVICE, bus, store, swap=True)
    await tell(projector, writer, topic, [note("a", 11, "x")])
    assert await run(store, "SELECT count(*) FROM checkpoint.notes") == [(11,)]
    assert await run(store, "SELECT count(*) FROM checkpoint__previous.notes") == [(10,)]
    await rebuild(SERVICE, bus, store, swap=True)


async def test_what_is_projected_during_the_swap_is_not_lost(
    store, bus, topic, writer, note, projector
):
    await tell(projector, writer, topic, [note("a", 1, "x")])
    swaps = asyncio.create_task(rebuild(SERVICE, bus, store, swap=True))
    number = 1
    while not swaps.done():
        number += 1
        await tell(projector, writer, topic, [note("a", number, "x")])
    with contextlib.suppress(Mismatch):
        await swaps
    await tell(projector, writer, topic, [note("a", number + 1, "x")])
    (compared,) = await rebuild(SERVICE, bus, store)
    assert compared.live == compared.rebuilt
    assert compared.rows == number + 1


async def beside(store) -> list[tuple]:
    return await run(store, "SELECT FROM pg_namespace WHERE nspname = 'checkpoint__rebuild'")


async def test_what_ends_early_leaves_the_live_tables_and_nothing_beside_them(
    store, bus, topic, writer, note, projector
):
    await tell(projector, writer, topic, [note("a", n, "x") for n in range(1, 41)])
    failing = dataclasses.replace(SERVICE, project=unable)
    with pytest.raises(ZeroDivisionError):
        await rebuild(failing, bus, store, replace=True)
    assert await beside(store) == []
    await run(store, "DELETE FROM notes WHERE number = 7")
    with pytest.raises(Mismatch):
        await rebuild(SERVICE, bus, store, swap=True)
    assert await beside(store) == []
    assert await run(store, "SELECT count(*) FROM notes") == [(39,)]


def unable(recorded: Recorded) -> list[Statement]:
    return project(recorded) if recorded.version < 30 else [1 // 0]


async def test_rebuilds_of_one_service_wait_for_each_other(
    store, bus, topic, writer, note, projector
):
    await tell(projector, writer, topic, [note("a", n, "x") for n in range(1, 41)])
    found = await asyncio.gather(
        rebuild(SERVICE, bus, store, swap=True), rebuild(SERVICE, bus, store)
    )
    assert {(one.rows, one.live) for (one,) in found} == {(40, found[0][0].rebuilt)}
    assert await run(store, "SELECT count(*) FROM notes") == [(40,)]
