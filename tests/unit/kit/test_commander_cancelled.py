"""A commander that is cancelled ends, also where its claim fails at the same moment."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from tests import callers

from loom.kit.commander import Commander
from loom.log.writer import Deposed, Doubt
from loomos.resource_manager.main import SERVICE


class Failing(Commander):
    """Its claim fails while it is being cancelled, as after a SIGSTOP that outlived the lease."""

    def __init__(self, failure: Doubt) -> None:
        bus: Any = SimpleNamespace(partitions=1)
        super().__init__(SERVICE, bus, 0, callers.Judge(), "test")
        self.failure = failure
        self.confirming = asyncio.Event()
        self.failing = asyncio.Event()
        self.silent = asyncio.Event()

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._confirm())

    async def _confirm(self) -> None:
        self.confirming.set()
        try:
            await self.failing.wait()
        finally:
            raise self.failure

    async def _await_silence(self, seconds: float) -> None:
        """The winner stays."""
        self.silent.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("failure", [Deposed("another claim"), Doubt("no answer")])
async def test_who_is_cancelled_and_fails_at_once_ends(failure):
    commander = Failing(failure)
    running = asyncio.create_task(commander.run())
    await asyncio.wait_for(commander.confirming.wait(), 5)
    running.cancel()
    await asyncio.wait([running], timeout=5)
    ended = running.cancelled()
    running.cancel()
    await asyncio.wait([running], timeout=5)
    assert ended


async def test_who_waits_for_silence_and_is_cancelled_ends_as_cancelled():
    commander = Failing(Deposed("another claim"))
    running = asyncio.create_task(commander.run())
    await asyncio.wait_for(commander.confirming.wait(), 5)
    commander.failing.set()
    await asyncio.wait_for(commander.silent.wait(), 5)
    running.cancel()
    await asyncio.wait([running], timeout=5)
    assert running.cancelled()
