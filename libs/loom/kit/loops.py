"""Loops that a process must not live on without."""

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["Vanished", "alone", "kept"]


class Vanished(Exception):
    """A loop ended as cancelled, and nobody had cancelled it."""


async def kept(loop: Coroutine[Any, Any, Any]) -> None:
    """Run a loop; raises Vanished where it ends as cancelled by nobody.

    A task group takes that for an ordinary end: the process would live on without the loop.
    """
    try:
        await loop
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Vanished(f"{loop.__qualname__} was cancelled by nobody") from error


async def alone(work: Coroutine[Any, Any, None]) -> None:
    """Run to its end in a task of its own; a cancellation ends both, whatever the work ends with.

    A task group whose child fails at the moment of a cancellation tells of the child only: who
    handles that in the same task, and goes on, is waited for in vain.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task])
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    task.result()
