"""Facts on their way to the resource manager, in order, kept until it has them.

1. A fact has one number for as long as this agent lives; it is sent again after every reconnect
   until the answer names its number, so it counts once.
2. What must survive the agent is not kept here but in the runs' folders, from which a restarted
   agent says it again.
"""

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from loom.v1 import resource_manager_pb2 as rm


class _Waiting(NamedTuple):
    report: rm.NodeReport
    accepted: Callable[[str], None]


class Outbox:
    """Reports not yet accepted."""

    def __init__(self) -> None:
        # A later agent on the same machine must not use an earlier one's numbers again.
        self._number = time.time_ns() // 1000
        self._waiting: dict[int, _Waiting] = {}
        self._changed = asyncio.Event()

    def add(self, report: rm.NodeReport, accepted: Callable[[str], None]) -> None:
        """Queues a report; `accepted` is called with the refusal, or "" when it counts."""
        self._number += 1
        report.number = self._number
        self._waiting[self._number] = _Waiting(report, accepted)
        self._changed.set()

    def settle(self, number: int, refusal: str) -> None:
        """The resource manager has the report, or will never take it."""
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting.accepted(refusal)

    async def after(self, number: int) -> rm.NodeReport:
        """The next report with a number above this one, once there is one."""
        while True:
            later = [waiting for waiting in self._waiting if waiting > number]
            if later:
                return self._waiting[min(later)].report
            self._changed.clear()
            await self._changed.wait()
