"""Appends commands through a claimed writer and waits until each is confirmed."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

from loom.log.clock import now_us
from loom.log.envelope import Draft, Origin
from loom.log.judge import START
from loom.log.topics import Bus
from loom.log.writer import Appended, Writer

__all__ = ["append", "numbered", "origin", "writing"]


@contextlib.asynccontextmanager
async def writing(bus: Bus, topic: str) -> AsyncIterator[Writer]:
    """A claim on the topic's partition."""

    async def ignore(_: list) -> None:
        return None

    writer = Writer(bus, topic, 0, "test", START)
    await writer.begin(ignore)
    reading = asyncio.create_task(writer.confirm())
    try:
        yield writer
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await writer.close()


def origin(
    service: str = "test",
    shard: str = "local",
    actor: str = "",
    story: str = "story",
    cause: str = "",
    command_id: str = "",
) -> Origin:
    """Where a new command of now comes from."""
    name = command_id or uuid.uuid4().hex
    by = actor or f"service:{service}"
    at_us = now_us()
    return Origin(f"/loomos/{service}", shard, by, name, bytes(32), at_us, at_us, story, cause)


def numbered(
    writer: Writer, commands: list[list[Draft]]
) -> tuple[list[Appended], list[asyncio.Future]]:
    """The commands with their stamps, not sent yet, and the futures of their fates."""
    futures = [asyncio.get_running_loop().create_future() for _ in commands]
    settles = [future.set_result for future in futures]
    return writer.append(list(zip(commands, settles, strict=True))), futures


async def append(writer: Writer, commands: list[list[Draft]]) -> list[int]:
    """Send, and give the offsets of the commands' last records."""
    appended, futures = numbered(writer, commands)
    await writer.send(appended)
    return [await asyncio.wait_for(one, 10) for one in futures]
