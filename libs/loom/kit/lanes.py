"""What a reactor has still to do: a lane a stream, in order inside it, and none waits for another.

1. A lane that cannot go on now holds up its own stream only. The position stays in front of the
   oldest thing undone; what was done behind it is done again after a restart, under the same ids.
2. What waits is bounded: a full house reads no further.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from loom.decider import Command, Recorded
from loom.log.judge import START, Base

__all__ = ["Lanes", "Work"]

UNDONE_MAX = 2000


class Work(NamedTuple):
    """One event and what it asks for."""

    cause: Recorded
    commands: list[Command]


class Lanes:
    """The undone work of one partition."""

    def __init__(self, do: Callable[[Work], Awaitable[None]]) -> None:
        self.read = START
        """The place behind the last record whose work was added."""
        self.changed = asyncio.Event()
        """Set whenever something was done or read."""
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the error that no trying again mends."""
        self._do = do
        self._numbers = itertools.count()
        self._undone: dict[int, Base] = {}
        """In the log's order: the place in front of each."""
        self._lanes: dict[str, deque[tuple[int, Work]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._freed = asyncio.Event()

    def add(self, work: Work) -> None:
        """Have it done after what its stream waits for."""
        number = next(self._numbers)
        self._undone[number] = self.read
        lane = self._lanes.get(work.cause.stream)
        if lane is not None:
            lane.append((number, work))
            return
        lane = self._lanes[work.cause.stream] = deque([(number, work)])
        task = asyncio.create_task(self._run(work.cause.stream, lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def passed(self, read: Base) -> None:
        """All work in front of this place was added."""
        self.read = read
        self.changed.set()

    def done_to(self) -> Base:
        """Where the position may stand."""
        return next(iter(self._undone.values()), self.read)

    async def room(self) -> None:
        """Wait until more may be added."""
        while len(self._undone) >= UNDONE_MAX:
            self._freed.clear()
            await self._freed.wait()

    async def close(self) -> None:
        """Leave the rest undone."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self.broken.cancel() and not self.broken.cancelled():
            self.broken.exception()

    async def _run(self, stream: str, lane: deque[tuple[int, Work]]) -> None:
        try:
            while lane:
                number, work = lane[0]
                await self._do(work)
                lane.popleft()
                del self._undone[number]
                self.changed.set()
                self._freed.set()
            del self._lanes[stream]
        except Exception as error:  # noqa: BLE001 - whoever awaits `broken` raises it
            if not self.broken.done():
                self.broken.set_exception(error)
