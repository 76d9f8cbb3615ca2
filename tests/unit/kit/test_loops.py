"""A loop does not vanish from a task group in silence."""

import asyncio
import contextlib

import pytest

from loom.kit.loops import Vanished, kept


async def for_ever() -> None:
    await asyncio.Event().wait()


async def takes_anothers_cancellation() -> None:
    other = asyncio.create_task(for_ever())
    other.cancel()
    await other


async def group_of(loop) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(kept(loop))
        tasks.create_task(for_ever())


async def test_a_loop_that_nobody_cancelled_ends_its_group():
    with pytest.raises(ExceptionGroup) as raised:
        await asyncio.wait_for(group_of(takes_anothers_cancellation()), 5)
    assert raised.group_contains(Vanished, match="takes_anothers_cancellation was cancelled by")


async def test_who_is_cancelled_is_cancelled():
    task = asyncio.create_task(group_of(for_ever()))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_deadline_within_a_loop_is_its_own():
    async def late() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await for_ever()
        await takes_anothers_cancellation()

    with pytest.raises(Vanished):
        await kept(late())
