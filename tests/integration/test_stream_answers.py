"""Answers of live streams: made once for all who are told the same, and for nobody else."""

import asyncio
import contextlib
from typing import Any

import pytest
from tests.sealed_world import Judge, serving, tell

from loom.kit.authorize import Caller, Scope
from loom.kit.errors import Failure
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.data.main import SERVICE as DATA
from loomos.loomdb import stream
from loomos.loomdb.main import SERVICE as LOOMDB

PATIENCE_S = 60


class Rights(Judge):
    """Rights that may be withdrawn."""

    allowed = True

    def scope(self, principal, action):
        return super().scope(principal, action) if self.allowed else Scope(False, [], [])


@contextlib.asynccontextmanager
async def two_services(settings):
    """Data and loomdb with the log's tail."""
    async with (
        serving(DATA, settings("data")) as data,
        serving(LOOMDB, settings("loomdb")) as loomdb,
    ):
        shell: Any = loomdb
        shell.authorizer = Rights("acme", True)
        tail = asyncio.create_task(stream.tail_of(loomdb).run())
        try:
            for name in ("part.made", "part.sold"):
                schema = data_pb2.RegisterSchemaRequest(
                    organisation_id="acme",
                    event_type=name,
                    version="1.0.0",
                    schema_json='{"type": "object"}',
                )
                await tell(data, schema)
            yield data, loomdb
        finally:
            tail.cancel()
            await asyncio.gather(tail, return_exceptions=True)


async def append(shell, kind, **more):
    event = data_pb2.NewEvent(type=kind, payload_json="{}", **more)
    return await tell(shell, data_pb2.AppendEventRequest(organisation_id="acme", event=event))


class Readers:
    """Streams that are read in step."""

    def __init__(self, shell):
        self.shell = shell
        self.all: list[Any] = []
        self.stack = contextlib.AsyncExitStack()

    async def live(self, number: int, **asked: Any) -> Any:
        """A stream of somebody, read until it is live; and its last cursor."""
        judge = self.shell.authorizer
        caller = Caller(f"user:usr-acme-{number}", "acme", "user", judge)
        request = pb.SubscribeRequest(organisation_id="acme", **asked)
        flows: Any = stream.subscribe(request, caller, self.shell)
        await self.stack.enter_async_context(contextlib.aclosing(flows))
        async with asyncio.timeout(PATIENCE_S):
            while not (await anext(flows)).live:
                pass
        return flows


@pytest.fixture
async def readers(fresh_log, fresh_database, settings):
    async with two_services(settings) as (data, loomdb):
        found = Readers(loomdb)
        async with found.stack:
            yield data, found


async def told(flows):
    """The next answer that tells of something."""
    async with asyncio.timeout(PATIENCE_S):
        while not (flow := await anext(flows)).events:
            pass
    return flow


async def test_who_is_told_the_same_is_given_the_same(readers):
    data, own = readers
    alike = [await own.live(number, types=["part."]) for number in range(3)]
    other = await own.live(9, types=["part.sold"])
    await append(data, "part.made")
    first = await asyncio.gather(*map(told, alike))
    assert all(flow is first[0] for flow in first)
    assert [event.type for event in first[0].events] == ["part.made"]
    await append(data, "part.sold")
    second = await asyncio.gather(*map(told, [*alike, other]))
    assert [[event.type for event in flow.events] for flow in second] == [["part.sold"]] * 4
    # Its cursor says the same, for what it passed was told or not for it.
    assert {flow.cursor for flow in second} == {second[0].cursor} != {first[0].cursor}
    late = await own.live(8, types=["part."], cursor=second[0].cursor)
    await append(data, "part.made")
    assert [event.type for event in (await told(late)).events] == ["part.made"]


async def test_a_place_goes_on_where_others_are_behind_or_ahead(readers):
    data, own = readers
    quick = await own.live(1, types=["part."])
    for _ in range(5):
        await append(data, "part.made")
    seen = []
    while len(seen) < 5:
        flow = await told(quick)
        seen += [(event.event_id, flow.cursor) for event in flow.events]
    request = pb.SubscribeRequest(
        organisation_id="acme",
        types=["part."],
        batch_size=2,
        cursor=seen[0][1],
        until_live=True,
    )
    caller = Caller("user:usr-acme-2", "acme", "user", own.shell.authorizer)
    found = []
    async for flow in stream.subscribe(request, caller, own.shell):
        assert len(flow.events) <= 2
        found += [event.event_id for event in flow.events]
    behind = [name for name, cursor in seen if cursor != seen[0][1]]
    assert found == behind


async def test_what_is_sealed_is_never_shared(readers):
    data, own = readers
    alike = [await own.live(number, types=["part."]) for number in range(2)]
    await append(data, "part.made", data_subject="ada", personal_paths=["/mail"])
    first, second = await asyncio.gather(*map(told, alike))
    assert first is not second
    assert first.events[0].event_id == second.events[0].event_id


async def test_withdrawn_rights_end_a_stream_before_the_next_event(readers):
    data, own = readers
    flows = await own.live(1, types=["part."])
    own.shell.authorizer.allowed = False
    own.shell.authorizer.view.version += 1
    await append(data, "part.made")
    with pytest.raises(Failure, match="nothing that you may see") as ended:
        await told(flows)
    assert ended.value.code == "PERMISSION_DENIED"


async def test_answers_that_may_wait_are_filled(readers):
    data, own = readers
    waits = await own.live(1, types=["part."], batch_size=3, flush_ms=60_000)
    for _ in range(3):
        await append(data, "part.made")
    assert len((await told(waits)).events) == 3
