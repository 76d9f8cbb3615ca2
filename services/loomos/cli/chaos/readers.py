"""Subscribers: one that keeps its own cursor, one whose progress the platform keeps.

1. The first has seen each event once and in the log's order; the second each at least once.
2. A line that breaks is taken up again where it broke; nothing else is retried.
"""

import asyncio
import contextlib
from dataclasses import dataclass, field

from loom.kit.errors import Failure
from loom.v1 import common_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.cli.chaos.appends import KIND
from loomos.cli.chaos.people import People

__all__ = ["Cursor", "Durable"]

PAUSE_SECONDS = 0.3
NAME = "chaos"


@dataclass
class Cursor:
    """Reads from the beginning, and goes on behind the cursor it heard last."""

    people: People
    organisation: str
    seen: list[str] = field(default_factory=list)
    """Ids of the log's events, as they came."""
    cursor: str = ""

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            with contextlib.suppress(Failure):
                await self._read()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _read(self) -> None:
        request = pb.SubscribeRequest(
            organisation_id=self.organisation, types=[KIND], cursor=self.cursor, batch_size=200
        )
        if not self.cursor:
            request.start = pb.STREAM_START_BEGINNING
        async for answer in self.people.stream(request, self.organisation):
            assert isinstance(answer, pb.EventFlow)
            self.seen += [event.event_id for event in answer.events]
            self.cursor = answer.cursor or self.cursor


@dataclass
class Durable:
    """Takes deliveries of a named subscription and settles them."""

    people: People
    organisation: str
    subscription_id: str = ""
    done: set[str] = field(default_factory=set)
    taken: int = 0

    async def found(self) -> None:
        """Make the subscription."""
        request = pb.CreateSubscriptionRequest(
            organisation_id=self.organisation,
            name=NAME,
            selection=pb.EventSelection(types=[KIND]),
            start=pb.EventStart(start=pb.STREAM_START_BEGINNING),
            ack_deadline_ms=15_000,
            deliveries_max=100,
        )
        receipt = await self.people.patiently(request, self.organisation)
        assert isinstance(receipt, common_pb2.Receipt)
        self.subscription_id = receipt.id

    async def run(self) -> None:
        """Take and settle until cancelled."""
        while True:
            with contextlib.suppress(Failure):
                await self._take()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _take(self) -> None:
        request = pb.ConsumeSubscriptionRequest(
            organisation_id=self.organisation,
            subscription_id=self.subscription_id,
            batch_size=200,
            unsettled_max=400,
        )
        async for answer in self.people.stream(request, self.organisation):
            assert isinstance(answer, pb.DeliveryFlow)
            if not answer.deliveries:
                continue
            self.taken += len(answer.deliveries)
            settle = pb.SettleDeliveriesRequest(
                organisation_id=self.organisation,
                subscription_id=self.subscription_id,
                done=[one.delivery_id for one in answer.deliveries],
            )
            async for _ in self.people.stream(settle, self.organisation):
                self.done |= {one.event.event_id for one in answer.deliveries}
