"""The projector on a real log and database: exactly once, poison parked alone, zombies fenced."""

import asyncio
import contextlib
import json

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer
from tests.appending import append

from loom.decider import Position, Recorded, Statement
from loom.kit.projector import Projector
from loom.log.judge import Base
from loom.log.letters import TOPIC
from loom.log.topics import connection
from loom.store import Fenced

INSERT = "INSERT INTO notes VALUES (%s, %s, %s)"


def project(recorded: Recorded) -> list[Statement]:
    event = recorded.event
    if event.command_type == "poison":
        raise ValueError("nobody can project this")
    # Twice the same row is an error: what is projected twice does not pass in silence.
    return [Statement(INSERT, (recorded.stream, recorded.version, event.command_type))]


@contextlib.asynccontextmanager
async def projecting(store, bus, topic, verb=project):
    projector = Projector(store, bus, topic, 0, verb)
    task = asyncio.create_task(projector.run())
    try:
        yield projector
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def rows(store, query: str) -> list[tuple]:
    async with store.connection() as connection:
        found = await (await connection.execute(query)).fetchall()
    return [tuple(row.values()) for row in found]


async def notes(store) -> list[tuple]:
    return await rows(store, "SELECT stream, number, said FROM notes ORDER BY stream, number")


async def reach(projector, topic, offset: int) -> None:
    assert await projector.reached(Position(topic, 0, offset), 20)


async def test_each_record_is_projected_once_across_restarts(store, bus, topic, writer, note):
    commands = [note("a", version, f"n{version}") for version in range(1, 31)]
    for start in range(0, 30, 10):
        offsets = await append(writer, commands[start : start + 10])
        async with projecting(store, bus, topic) as projector:
            await reach(projector, topic, offsets[-1])
    assert await notes(store) == [("a", n, f"n{n}") for n in range(1, 31)]


async def test_a_command_is_projected_whole_or_not_at_all(store, bus, topic, writer, note):
    offsets = await append(writer, [note("a", 1, "one", "two", "three")])
    async with projecting(store, bus, topic) as projector:
        await reach(projector, topic, offsets[-1])
        assert projector.base.offset == offsets[-1] + 1
    assert len(await notes(store)) == 3


async def test_poison_is_parked_with_its_stream_and_the_others_flow(
    store, bus, topic, writer, note
):
    commands = [note("a", 1, "one"), note("b", 1, "poison"), note("b", 2, "two")]
    offsets = await append(writer, [*commands, note("c", 1, "three")])
    async with projecting(store, bus, topic) as projector:
        await reach(projector, topic, offsets[-1])
    # A restarted projector still holds back what follows the poison.
    offsets += await append(writer, [note("b", 3, "later"), note("c", 2, "four")])
    async with projecting(store, bus, topic) as projector:
        await reach(projector, topic, offsets[-1])
    assert await notes(store) == [("a", 1, "one"), ("c", 1, "three"), ("c", 2, "four")]
    parked = await rows(store, "SELECT record_offset, stream, attempts, reason FROM dead_letters")
    assert [(row[0], row[1], row[2]) for row in sorted(parked)] == [
        (offsets[1], "b", 3),
        (offsets[2], "b", 0),
        (offsets[4], "b", 0),
    ]
    assert "nobody can project this" in sorted(parked)[0][3]
    async with projecting(store, bus, topic):
        assert {offsets[1], offsets[2], offsets[4]} == await noticed(bus, topic, 3)


async def noticed(bus, topic: str, count: int) -> set[int]:
    """Offsets of the records of a topic that `loomos.dead-letters` tells of."""
    consumer = AIOKafkaConsumer(TOPIC, **connection(bus), auto_offset_reset="earliest")
    await consumer.start()
    found: set[int] = set()
    try:
        async with asyncio.timeout(30):
            while len(found) < count:
                notice = json.loads((await consumer.getone()).value)
                if notice["topic"] == topic:
                    found.add(notice["record_offset"])
    finally:
        await consumer.stop()
    return found


async def test_parked_records_are_taken_back_in_their_order(store, bus, topic, writer, note):
    def mended(recorded: Recorded) -> list[Statement]:
        event = recorded.event
        return [Statement(INSERT, (recorded.stream, recorded.version, event.command_type))]

    commands = [note("b", 1, "poison"), note("b", 2, "two"), note("c", 1, "poison")]
    offsets = await append(writer, commands)
    async with projecting(store, bus, topic) as projector:
        await reach(projector, topic, offsets[-1])
        assert await projector.redeem() == 0
    assert await notes(store) == []
    async with projecting(store, bus, topic, mended) as projector:
        await reach(projector, topic, offsets[-1])
        offsets += await append(writer, [note("b", 3, "three")])
        await reach(projector, topic, offsets[-1])
        assert await projector.redeem("b") == 3
        offsets += await append(writer, [note("b", 4, "four")])
        await reach(projector, topic, offsets[-1])
    expected = [("b", 1, "poison"), ("b", 2, "two"), ("b", 3, "three"), ("b", 4, "four")]
    assert await notes(store) == expected
    assert await rows(store, "SELECT stream FROM dead_letters") == [("c",)]


async def test_an_earlier_owner_that_wakes_up_writes_nothing(store, bus, topic, writer, note):
    first = Projector(store, bus, topic, 0, project)
    task = asyncio.create_task(first.run())
    offsets = await append(writer, [note("a", 1, "one")])
    await reach(first, topic, offsets[-1])
    async with projecting(store, bus, topic) as second:
        await reach(second, topic, offsets[-1])
        offsets = await append(writer, [note("a", 2, "two")])
        await reach(second, topic, offsets[-1])
        with pytest.raises(Fenced, match=topic):
            await asyncio.wait_for(task, 20)
    assert await notes(store) == [("a", 1, "one"), ("a", 2, "two")]


async def test_a_database_restored_older_is_brought_up_again(store, bus, topic, writer, note):
    offsets = await append(writer, [note("a", 1, "one")])
    async with projecting(store, bus, topic) as projector:
        await reach(projector, topic, offsets[-1])
    older = await rows(store, "SELECT base FROM positions")
    offsets = await append(writer, [note("a", 2, "two")])
    async with projecting(store, bus, topic) as projector:
        await reach(projector, topic, offsets[-1])
    async with store.connection() as connection:
        await connection.execute("DELETE FROM notes WHERE number = 2")
        await connection.execute("UPDATE positions SET base = %s", (older[0][0],))
    async with projecting(store, bus, topic) as projector:
        await reach(projector, topic, offsets[-1])
    assert await notes(store) == [("a", 1, "one"), ("a", 2, "two")]


async def test_sessions_killed_in_mid_projection_leave_nothing_half_done(
    store, bus, topic, writer, note, platform
):
    commands = [note("a", version, "x") for version in range(1, 501)]
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'loomos-checkpoint'"
    )
    async with (
        projecting(store, bus, topic) as projector,
        await psycopg.AsyncConnection.connect(platform.admin_dsn, autocommit=True) as admin,
    ):
        for start in range(0, 500, 100):
            offsets = await append(writer, commands[start : start + 100])
            await admin.execute(kill)
        await reach(projector, topic, offsets[-1])
        assert isinstance(projector.base, Base)
    assert len(await notes(store)) == 500
