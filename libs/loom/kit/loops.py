"""Loops that a process must not live on without."""

import asyncio
from collections.abc import Coroutine
from typing import Any

__all__ = ["Vanished", "kept"]


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
