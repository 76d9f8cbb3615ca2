"""What ends a delivery and what does not: consumers that come and go, an owner that claims anew."""

import asyncio
import contextlib
from typing import Any

import pytest
from tests.sealed_world import CALLER, Judge, eventually, serving, tell

from loom.kit.authorize import VIEW_STALE, Caller, Decision
from loom.kit.errors import Failure
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.data.main import SERVICE as DATA
from loomos.loomdb import stream
from loomos.loomdb.main import SERVICE as LOOMDB
from loomos.loomdb.query.subscription import kept
from loomos.loomdb.stream import consume, delivery

TYPE = "part.made"


@contextlib.asynccontextmanager
async def two_services(settings):
    """Data and loomdb with the log's tail."""
    async with (
        serving(DATA, settings("data")) as data,
        serving(LOOMDB, settings("loomdb")) as loomdb,
    ):
        tail = asyncio.create_task(stream.tail_of(loomdb).run())
        try:
            schema = data_pb2.RegisterSchemaRequest(
                organisation_id="acme",
                event_type=TYPE,
                version="1.0.0",
                schema_json='{"type": "object"}',
            )
            await tell(data, schema)
            yield data, loomdb
        finally:
            under_way = [*consume.here(loomdb).tasks, tail]
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)


async def append(shell, count, stream_name="s"):
    new = [
        data_pb2.NewEvent(type=TYPE, stream=f"{stream_name}-{n}", payload_json=f'{{"n": {n}}}')
        for n in range(count)
    ]
    await tell(shell, data_pb2.AppendEventsRequest(organisation_id="acme", events=new))


async def subscription(shell):
    """A new subscription to all parts, known to the tables."""
    made = await tell(
        shell,
        pb.CreateSubscriptionRequest(
            organisation_id="acme",
            name="parts",
            selection=pb.EventSelection(types=[TYPE]),
            start=pb.EventStart(start=pb.STREAM_START_BEGINNING),
        ),
    )

    async def known():
        async with shell.db() as db:
            return await kept("acme", made.id, db)

    await eventually(known)
    return made.id


def consumed(own: str, shell: Any, limit: int) -> Any:
    """A consumer's stream."""
    asked = pb.ConsumeSubscriptionRequest(
        organisation_id="acme", subscription_id=own, batch_size=limit, unsettled_max=limit
    )
    flows: Any = consume.consume_subscription(asked, CALLER, shell)
    return contextlib.aclosing(flows)


async def given(flows):
    """The next deliveries."""
    async with asyncio.timeout(60):
        while not (flow := await anext(flows)).deliveries:
            pass
    return list(flow.deliveries)


async def settled(own, shell, deliveries):
    """How many of them counted."""
    asked = pb.SettleDeliveriesRequest(
        organisation_id="acme",
        subscription_id=own,
        done=[one.delivery_id for one in deliveries],
    )
    answers = [one async for one in consume.settle_deliveries(asked, CALLER, shell)]
    return answers[0].settled


async def test_who_comes_while_a_delivery_ends_is_served_by_it_or_by_the_next(
    fresh_log, fresh_database, settings, monkeypatch
):
    monkeypatch.setattr(delivery, "LINGER_S", 0.0)
    async with two_services(settings) as (data, loomdb):
        own = await subscription(loomdb)
        await append(data, 12)
        for _ in range(12):
            async with consumed(own, loomdb, 1) as flows:
                (one,) = await given(flows)
                assert one.attempt == 1, "nothing failed and nothing was late"
                assert await settled(own, loomdb, [one]) == 1
            # The next one comes at any moment of the end.
            await asyncio.sleep(0)


async def test_a_partition_that_is_claimed_anew_breaks_no_delivery(
    fresh_log, fresh_database, settings, monkeypatch
):
    monkeypatch.setattr(delivery, "LOOK_S", 0.01)
    looks = []
    look = delivery.Dispatcher._look

    async def counted(dispatcher):
        await look(dispatcher)
        looks.append(dispatcher)

    monkeypatch.setattr(delivery.Dispatcher, "_look", counted)
    async with two_services(settings) as (data, loomdb):
        own = await subscription(loomdb)
        await append(data, 2)
        taken: list[pb.Delivery] = []

        async def collect(flows):
            async for flow in flows:
                taken.extend(flow.deliveries)

        async def came(count):
            async with asyncio.timeout(60):
                while len(taken) < count and not reading.done():
                    await asyncio.sleep(0.01)
            assert len(taken) == count, reading

        async with consumed(own, loomdb, 10) as flows:
            reading = asyncio.create_task(collect(flows))
            await came(2)
            commander: Any = loomdb.ownership.commanders[0]
            commander.serving.clear()
            before = len(looks)

            async def looked():
                return len(looks) > before + 2

            await eventually(looked)
            assert await settled(own, loomdb, taken) == 2
            commander.serving.set()
            await append(data, 2, "later")
            await came(4)
            assert [one.attempt for one in taken] == [1, 1, 1, 1]
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


class Behind(Judge):
    """Policies that do not know what security has decided of late."""

    def may(self, principal, action, resource):
        return Decision(False, (VIEW_STALE,))


async def test_who_is_not_known_for_a_moment_is_told_to_retry_and_not_that_nothing_is_there(
    fresh_log, fresh_database, settings
):
    async with two_services(settings) as (_, loomdb):
        own = await subscription(loomdb)
        caller = Caller(CALLER.principal, "acme", "user", Behind("acme", True))
        asked = pb.ConsumeSubscriptionRequest(organisation_id="acme", subscription_id=own)
        settle = pb.SettleDeliveriesRequest(organisation_id="acme", subscription_id=own)
        for answers in (
            consume.consume_subscription(asked, caller, loomdb),
            consume.settle_deliveries(settle, caller, loomdb),
        ):
            with pytest.raises(Failure, match="behind security's log") as refused:
                await anext(answers)
            assert refused.value.code == "UNAVAILABLE"
