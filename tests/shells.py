"""A service's loops in this process, as `run` starts them, on the session's real stores."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any

from loom.kit import erasures
from loom.kit.service import Shell

__all__ = ["serving"]

Loops = Callable[[], Iterable[Coroutine[Any, Any, None]]]


@contextlib.asynccontextmanager
async def serving(shell: Shell, loops: Loops = lambda: ()) -> AsyncIterator[Shell]:
    """The shell once it serves partition 0, with further loops; none may end before the test."""
    await shell.store.open()
    await shell.store.prepare(shell.service.schema)
    await erasures.replay(shell.sealing)
    tasks = [asyncio.create_task(one) for one in (shell.ownership.own(0), *loops())]
    try:
        ready = asyncio.create_task(shell.ownership.serving())
        waiting = [ready, *tasks]
        done, _ = await asyncio.wait(waiting, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        assert done == {ready}, [task.exception() for task in done]
        yield shell
    finally:
        died = [task.exception() for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await shell.ownership.release()
        await shell.client.close()
        await shell.store.close()
    assert died == []
