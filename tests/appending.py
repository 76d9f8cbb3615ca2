"""Appends commands through a claimed writer and waits until each is confirmed."""

import asyncio

from loom.log.envelope import Draft
from loom.log.writer import Appended, Writer

__all__ = ["append", "numbered"]


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
