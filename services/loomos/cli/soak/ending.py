"""A run in a folder of its own, from its beginning to whichever end it comes to.

1. The folder goes where everything held, and after a signal; it stays, named, where not all did.
2. A signal ends the work in order, once: who is impatient does not make it leave things behind.
"""

import asyncio
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import structlog

from loomos.cli.soak.story import Story

__all__ = ["Work", "run_apart"]

INTERRUPTED = 130

Work = Callable[[Path, int, float], Coroutine[Any, Any, None]]
"""What is done in the folder, with this seed, for so many seconds."""


def run_apart(name: str, work: Work, seed: int, minutes: int, story: Story) -> None:
    """Do the work, with a seed of its own where that is 0; exit 1 where something did not hold."""
    # The processes' own logs lie in the folder; here only the story is told.
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    seed = seed or random.SystemRandom().randrange(1, 2**31)
    asyncio.run(to_its_end(name, work, seed, minutes, story))
    story.tell("held", seed=seed)


async def to_its_end(name: str, work: Work, seed: int, minutes: int, story: Story) -> None:
    """Say what broke as soon as nothing runs any more, and end at once."""
    told: list[str] = []
    loop, own = asyncio.get_running_loop(), asyncio.current_task()
    assert own is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, own, told, number.name)
    # From here on a signal is heard at the next `await` and not before.
    folder = Path(tempfile.mkdtemp(prefix=f"loomos-{name}-"))
    story.tell("begin", seed=seed, minutes=minutes, folder=str(folder))
    try:
        await work(folder, seed, minutes * 60)
    except asyncio.CancelledError:
        if not told:
            raise
    except Exception as error:  # noqa: BLE001 - whatever broke is told
        if not told:
            lines = [line for line in traceback.format_exception(error) if "loomos" in line]
            story.tell("broken", why=lines_of(error), at=lines[-1:], folder=str(folder))
            leave(1)
    shutil.rmtree(folder, ignore_errors=True)
    if told:
        story.tell("ended", by=told[0], left="nothing")
        leave(INTERRUPTED)


def leave(status: int) -> None:
    """Processes and mounts are gone; a loop that waits for a broken line must not keep us."""
    sys.stdout.flush()
    os._exit(status)


def end(task: asyncio.Task[Any], told: list[str], name: str) -> None:
    """Have the work end, where this is the first signal."""
    told.append(name)
    if len(told) == 1:
        task.cancel()


def lines_of(error: BaseException) -> list[str]:
    """What went wrong, without the groups that wrap it."""
    if isinstance(error, BaseExceptionGroup):
        return [line for one in error.exceptions for line in lines_of(one)]
    return (str(error) or type(error).__name__).splitlines()
