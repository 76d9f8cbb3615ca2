"""Records as they are stored, in the form in which exports carry them.

1. A record is its offset, the broker's time and a length (16 and 4 bytes), then the very bytes that
   its digest is taken over: all lengths, key, value, and the headers in order. So SHA-256 over them
   is the digest in the record's leaf, and key, value and headers can be told apart again.
2. Reading for an export judges nothing: void records come, too; the tree says what they are.
3. What Kafka has forgotten comes from the archive. A record whose content was deleted there by
   policy comes with no bytes at all.
"""

import asyncio
import struct
from collections.abc import Iterator
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from .cold import NotArchived, cold_of
from .depot import DepotAway
from .endings import end_consumer
from .judge import Headers
from .parquet import DamagedArchive
from .reader import LogAway
from .topics import Bus, connection

__all__ = ["Frame", "frames_in", "read_range", "stored_bytes"]

HEAD = struct.Struct(">qqI")
READ_S = 10.0
RECORDS_MAX = 2000


class Frame(NamedTuple):
    """One record of an export."""

    offset: int
    time_ms: int
    stored: bytes

    def pack(self) -> bytes:
        """The record as a file of an export holds it."""
        return HEAD.pack(self.offset, self.time_ms, len(self.stored)) + self.stored


def stored_bytes(key: bytes | None, headers: Headers, value: bytes | None) -> bytes:
    """What judge.digest hashes."""
    parts = [bytes((key is None, value is None)), key or b"", value or b""]
    for name, data in headers:
        parts += (name.encode(), data or b"")
    lengths = struct.pack(f">I{len(parts)}I", len(parts), *map(len, parts))
    return lengths + b"".join(parts)


def frames_in(data: bytes) -> Iterator[Frame]:
    """The records that `Frame.pack` gave, one after another."""
    at = 0
    while at < len(data):
        offset, time_ms, length = HEAD.unpack_from(data, at)
        at += HEAD.size + length
        yield Frame(offset, time_ms, data[at - length : at])


async def read_range(
    bus: Bus, topic: str, partition: int, first: int, end: int, bytes_max: int
) -> tuple[list[Frame], int]:
    """Records from offset `first` on, below `end`, and where to go on; raises LogAway.

    Stops where their bytes reach `bytes_max`, but gives at least one where there is one.
    """
    place = TopicPartition(topic, partition)
    consumer = AIOKafkaConsumer(
        **connection(bus),
        client_id="loomos-export",
        enable_auto_commit=False,
        isolation_level="read_committed",
        auto_offset_reset="none",
    )
    found: list[Frame] = []
    size, at = 0, first
    try:
        await consumer.start()
        consumer.assign([place])
        consumer.seek(place, first)
        async with asyncio.timeout(READ_S):
            while at < end and size < bytes_max and len(found) < RECORDS_MAX:
                batch = await consumer.getmany(place, timeout_ms=1000)
                for record in batch.get(place, ()):
                    at = record.offset + 1
                    if record.offset >= end:
                        return found, end
                    stored = stored_bytes(record.key, record.headers, record.value)
                    found.append(Frame(record.offset, record.timestamp, stored))
                    size += len(stored)
                    if size >= bytes_max or len(found) >= RECORDS_MAX:
                        break
    except OffsetOutOfRangeError:
        return await archived(bus, topic, partition, first, end, bytes_max)
    except (KafkaError, TimeoutError) as error:
        raise LogAway(f"{topic}-{partition} from offset {first}: {error!r}") from error
    finally:
        await end_consumer(consumer)
    return found, at


async def archived(
    bus: Bus, topic: str, partition: int, first: int, end: int, bytes_max: int
) -> tuple[list[Frame], int]:
    """The same from the archive; raises LogAway where it does not hold them."""
    cold = cold_of(bus, topic, partition)
    place = f"{topic}-{partition} from offset {first}"
    if cold is None:
        raise LogAway(f"{place}: Kafka has it no more, and no archive is known")
    found: list[Frame] = []
    size, at = 0, first
    try:
        for record in await cold.from_offset(first, RECORDS_MAX):
            if record.offset >= end or size >= bytes_max:
                break
            stored = b""
            if not record.deleted:
                stored = stored_bytes(record.key, record.headers, record.value)
            found.append(Frame(record.offset, record.timestamp_ms, stored))
            size, at = size + len(stored), record.offset + 1
    except (NotArchived, DamagedArchive, DepotAway) as error:
        raise LogAway(f"{place}: {error}") from error
    return found, at
