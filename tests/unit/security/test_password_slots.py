"""Hashing stays few at a time, also where callers give up: what they left runs on and counts."""

import asyncio
import threading

from loomos.security import password

CALLERS = 24


async def test_who_gives_up_leaves_its_slot_taken_until_the_hasher_has_ended():
    go_on = threading.Event()
    lock = threading.Lock()
    running: list[int] = []
    most: list[int] = []

    def hasher() -> None:
        with lock:
            running.append(1)
            most.append(len(running))
        go_on.wait()
        with lock:
            running.pop()

    try:
        for _ in range(CALLERS // password.AT_ONCE_MAX):
            callers = [
                asyncio.ensure_future(password.slowly(hasher)) for _ in range(password.AT_ONCE_MAX)
            ]
            # Long enough for threads to begin; too short only makes the test see less.
            await asyncio.wait(callers, timeout=0.02)
            for one in callers:
                one.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
    finally:
        go_on.set()
    await password.slowly(lambda: None)
    assert most
    assert max(most) <= password.AT_ONCE_MAX


async def test_a_failure_of_the_hasher_is_told_and_frees_its_slot():
    def broken() -> None:
        raise ValueError("no hash")

    for _ in range(2 * password.AT_ONCE_MAX):
        told = await asyncio.gather(password.slowly(broken), return_exceptions=True)
        assert isinstance(told[0], ValueError)
    assert await password.slowly(lambda: 7) == 7
