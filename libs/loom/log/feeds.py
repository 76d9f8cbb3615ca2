"""Writes events for outsiders: CloudEvents in Kafka's binary mode, in a topic of their own.

1. `write` returns when the brokers have all of it; what was sent and not confirmed is sent again by
   who asked, so a record may stand there twice and none is missing.
2. Compressed by gzip, which every client reads without a further library.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from loom.log.endings import end_producer
from loom.log.reader import LogAway
from loom.log.topics import Bus, connection

__all__ = ["RECORD_BYTES_MAX", "FeedRecord", "FeedWriter"]

WRITE_S = 30.0
RECORD_BYTES_MAX = 1_000_000


class FeedRecord(NamedTuple):
    """One CloudEvent."""

    key: bytes
    value: bytes
    attributes: dict[str, str]
    """By their CloudEvents names."""

    def headers(self) -> list[tuple[str, bytes]]:
        """As Kafka's binding of CloudEvents names them."""
        named = [(f"ce_{name}", text.encode()) for name, text in self.attributes.items()]
        return [*named, ("content-type", b"application/json")]


class FeedWriter:
    """The only writer of feeds; one a process."""

    def __init__(self, bus: Bus) -> None:
        self._producer = AIOKafkaProducer(
            **connection(bus),
            client_id="loomos-feeds",
            acks="all",
            enable_idempotence=True,
            compression_type="gzip",
            max_request_size=RECORD_BYTES_MAX + 48_576,
            linger_ms=2,
        )

    async def start(self) -> None:
        """Connect; raises LogAway."""
        try:
            await self._producer.start()
        except (KafkaError, TimeoutError) as error:
            raise LogAway(f"feeds: {error!r}") from error

    async def stop(self) -> None:
        """Disconnect."""
        await end_producer(self._producer)

    async def write(self, topic: str, records: Sequence[FeedRecord]) -> None:
        """Append records in their order, confirmed; raises LogAway, also where no topic is."""
        try:
            async with asyncio.timeout(WRITE_S):
                sent = [
                    await self._producer.send(
                        topic, one.value, key=one.key, partition=0, headers=one.headers()
                    )
                    for one in records
                ]
                await asyncio.gather(*sent)
        except (KafkaError, TimeoutError) as error:
            raise LogAway(f"{topic}: {error!r}") from error
