"""Ticks: what a shard's state wants done by the clock, decided among the commands that come.

1. A tick that is due now travels in the batch of what made it due.
2. One that moved nothing is repeated at once only when something else has moved; no shard ticks
   without a pause.
"""

import asyncio

import structlog

from loom.kit.authorize import Authorizer
from loom.kit.contract import Service
from loom.kit.desk import Decided, Desk
from loom.kit.entries import Entry
from loom.kit.errors import Failure
from loom.kit.folder import SHELL_EVENTS
from loom.log.clock import now_us
from loom.v1 import common_pb2

__all__ = ["Ticker"]

PAUSE_US = 5_000
IDLE_US = 500_000
REFUSED_US = 1_000_000


class Ticker:
    """Whose turn it is on one partition."""

    def __init__(self, service: Service, partition: int, authorizer: Authorizer) -> None:
        self._service = service
        self._authorizer = authorizer
        self._rests: dict[str, int] = {}
        """Shard → not before, microseconds."""
        self._last_us = 0
        self._log = structlog.get_logger().bind(topic=service.topic, partition=partition)

    def wanted(self, desk: Desk) -> list[str]:
        """The shards whose tick is due."""
        now = now_us()
        return sorted(
            shard
            for shard, due_us in desk.due.items()
            if due_us <= now and self._rests.get(shard, 0) <= now
        )

    def wait_s(self, desk: Desk) -> float:
        """Seconds until one is due; infinite where none will be."""
        soonest = min(
            (max(due_us, self._rests.get(shard, 0)) for shard, due_us in desk.due.items()),
            default=None,
        )
        return float("inf") if soonest is None else max(0.0, (soonest - now_us()) / 1e6)

    def stirred(self, shard: str) -> None:
        """Something else has moved: an idle tick's rest is over."""
        self._rests.pop(shard, None)

    def decide(self, desk: Desk, shard: str) -> Decided | None:
        """The tick's records; None where it broke down and is tried again later."""
        entry = self._entry(shard)
        now = self._last_us
        try:
            decided = desk.decide(entry)
        except Failure as failure:
            self._log.error("tick broke down", shard=shard, reason=failure.message)
            self._rests[shard] = now + REFUSED_US
            return None
        self._rests[shard] = now + PAUSE_US
        if decided is not None:
            (first, *_), _ = decided
            if isinstance(first.event, common_pb2.CommandRefused):
                self._log.error("tick refused", shard=shard, reason=first.event.message)
                self._rests[shard] = now + REFUSED_US
            elif type(first.event) in SHELL_EVENTS:
                self._rests[shard] = now + IDLE_US
        return decided

    def _entry(self, shard: str) -> Entry:
        # Two shards' ticks of one moment are two commands.
        now = self._last_us = max(now_us(), self._last_us + 1)
        answer = asyncio.get_running_loop().create_future()
        answer.add_done_callback(heard)
        return Entry(
            request=common_pb2.TickRequest(shard_id=shard),
            caller=self._authorizer.service_caller(self._service.name),
            shard=shard,
            action="Tick",
            command_id=f"tick-{now:x}",
            digest=bytes(32),
            issued_at_us=now,
            correlation_id=f"tick-{now:x}",
            causation_id="",
            traceparent="",
            expected={},
            answer=answer,
        )


def heard(answer: asyncio.Future) -> None:
    """Nobody waits for a tick's answer, its doubt neither: the next one is due all the same."""
    if not answer.cancelled():
        answer.exception()
