"""Reads Kafka's segment files without a broker.

1. It takes nothing on trust: every length is bounded before it is used, every batch is checked
   against its CRC32C, and what cannot be read is handed out as `Damage` with its offsets, as far
   as they can be told. It never raises on content.
2. Behind damage it looks for the next batch whose CRC holds, and reads on from there.
3. Records of a batch that fails its CRC are still handed out where they can be decoded, marked
   `suspect`, so that a comparison can name the very record that was changed.
4. Records are decoded by the same code as a consumer's, so their digests are the same.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cramjam
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.util import calc_crc32c

from . import regular
from .judge import Headers

SEGMENT = re.compile(r"[0-9]{20}\.log")
HEADER = struct.Struct(">qiibIhiqqqhii")
CRC_AT = 17
CHECKED_FROM = 21
"""The CRC covers everything from the attributes on."""
LENGTH_FROM = 12
"""The batch length counts everything behind itself."""
MAGIC = 2
CODEC_MASK = 0x07
CODEC_LZ4 = 3
CONTROL = 0x20
BATCH_BYTES_MAX = 64 * 1024 * 1024
PLAIN_BYTES_MAX = 512 * 1024 * 1024
LZ4_RATIO_MAX = 256
SEGMENT_BYTES_MAX = 1 << 31
"""A broker finds its way in a segment by 31 bits: what lies behind them it did not write."""
SCAN_BYTES = 1 << 20
RESYNC_WORK = 8
"""How many times its own size a damaged file may cost in CRC checks."""


class Stored(NamedTuple):
    """A record as it stands in a segment."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    suspect: bool = False
    mark: bytes = b""
    """Its digest, where the record itself was deleted from the archive by policy."""


class Damage(NamedTuple):
    """A stretch of a segment that is not what a broker wrote."""

    first_offset: int
    last_offset: int
    """-1 when the stretch reaches the end of the file."""
    what: str
    cut: bool = False
    """Whether the file simply ends inside a batch."""


class Torn(NamedTuple):
    """Bytes that are no batch, and why."""

    what: str
    cut: bool = False


class Batch(NamedTuple):
    """The frame of a record batch."""

    base_offset: int
    last_offset: int
    attributes: int
    data: bytes
    intact: bool
    """Whether the CRC holds."""


def read_partition(folder: Path) -> Iterator[Stored | Damage]:
    """Everything in a partition's folder, segment after segment, in the order it stands there."""
    names = sorted(path.name for path in folder.iterdir() if SEGMENT.fullmatch(path.name))
    for name in names:
        yield from read_segment(folder / name)


def read_segment(path: Path) -> Iterator[Stored | Damage]:
    """Everything in one segment file."""
    try:
        with regular.opened(path) as file:
            yield from _read(file, int(path.stem), path.name)
    except OSError as error:
        yield Damage(int(path.stem), -1, f"{path.name} cannot be read: {error.strerror}")


def _read(file: BinaryIO, next_offset: int, name: str) -> Iterator[Stored | Damage]:
    size = min(file.seek(0, 2), SEGMENT_BYTES_MAX)
    work = size * RESYNC_WORK
    at = 0
    while at < size:
        batch = read_batch(file, at, size)
        if isinstance(batch, Batch) and not (batch.intact or _framed(file, at, batch, size)):
            batch = Torn("a batch fails its CRC32C")
        if isinstance(batch, Torn):
            found, work = resync(file, at + 1, size, next_offset, work)
            last = -1 if found is None else max(found[1] - 1, next_offset)
            yield Damage(next_offset, last, f"{name} at byte {at}: {batch.what}", batch.cut)
            if found is None:
                return
            at = found[0]
            continue
        if not batch.intact:
            yield Damage(
                batch.base_offset,
                max(batch.base_offset, batch.last_offset),
                f"{name} at byte {at}: a batch fails its CRC32C",
            )
        yield from records(batch, f"{name} at byte {at}")
        next_offset = max(next_offset, batch.last_offset + 1)
        at += len(batch.data)


def read_batch(file: BinaryIO, at: int, size: int) -> Batch | Torn:
    """The batch that begins at this byte, or why there is none."""
    if size - at < HEADER.size:
        return Torn(f"{size - at} bytes are left, less than a batch header", cut=True)
    file.seek(at)
    head = file.read(HEADER.size)
    base, length, _, magic, crc, attributes, last_delta, *_ = HEADER.unpack(head)
    total = length + LENGTH_FROM
    if magic != MAGIC:
        return Torn(f"a batch of format {magic}, expected {MAGIC}")
    if not HEADER.size <= total <= BATCH_BYTES_MAX:
        return Torn(f"a batch of {total} bytes, allowed are {HEADER.size} to {BATCH_BYTES_MAX}")
    if at + total > size:
        return Torn(f"a batch of {total} bytes, but only {size - at} are left", cut=True)
    data = head + file.read(total - HEADER.size)
    intact = calc_crc32c(data[CHECKED_FROM:]) == crc
    return Batch(base, base + last_delta, attributes, data, intact)


def _framed(file: BinaryIO, at: int, batch: Batch, size: int) -> bool:
    """Whether a batch that fails its CRC at least ends where another begins or the file ends."""
    end = at + len(batch.data)
    if end == size:
        return True
    following = read_batch(file, end, size)
    return isinstance(following, Batch) and following.base_offset > batch.base_offset


def resync(
    file: BinaryIO, start: int, size: int, next_offset: int, work: int
) -> tuple[tuple[int, int] | None, int]:
    """The next place (byte, base offset) from `start` on where an intact batch begins.

    `work` bounds the bytes that may be checked on the way; what is left of it is given back.
    """
    at = start
    while at + HEADER.size <= size and work > 0:
        file.seek(at)
        window = file.read(SCAN_BYTES + HEADER.size)
        spot = window.find(MAGIC, 16)
        while spot != -1 and spot - 16 + HEADER.size <= len(window) and work > 0:
            place = at + spot - 16
            base, length = struct.unpack_from(">qi", window, spot - 16)
            total = length + LENGTH_FROM
            if base >= next_offset and HEADER.size <= total <= min(BATCH_BYTES_MAX, size - place):
                work -= total
                batch = read_batch(file, place, size)
                if isinstance(batch, Batch) and batch.intact:
                    return (place, base), work
            spot = window.find(MAGIC, spot + 1)
        at += SCAN_BYTES
    return None, work


def records(batch: Batch, where: str) -> Iterator[Stored | Damage]:
    """The records of a batch; transaction markers are not records."""
    if batch.attributes & CONTROL:
        return
    suspect = not batch.intact
    try:
        for record in DefaultRecordBatch(plain(batch)):
            yield Stored(
                record.offset,
                record.timestamp,
                record.key,
                record.value,
                tuple((name, data or b"") for name, data in record.headers),
                suspect,
            )
    except (CorruptRecordException, ValueError, cramjam.DecompressionError) as error:
        if not suspect:
            yield Damage(
                batch.base_offset,
                max(batch.base_offset, batch.last_offset),
                f"{where}: a batch cannot be decoded: {error}",
            )


def plain(batch: Batch) -> bytes:
    """The batch with its records decompressed, within bounds."""
    codec = batch.attributes & CODEC_MASK
    if codec == 0:
        return batch.data
    if codec != CODEC_LZ4:
        raise ValueError(f"compression codec {codec}; known are 0 (none) and {CODEC_LZ4} (lz4)")
    packed = batch.data[HEADER.size :]
    room = bytearray(min(len(packed) * LZ4_RATIO_MAX + 65_536, PLAIN_BYTES_MAX))
    used = cramjam.lz4.decompress_into(packed, room)
    head = bytearray(batch.data[: HEADER.size])
    struct.pack_into(">h", head, CHECKED_FROM, batch.attributes & ~CODEC_MASK)
    struct.pack_into(">i", head, 8, HEADER.size - LENGTH_FROM + used)
    return bytes(head) + bytes(memoryview(room)[:used])
