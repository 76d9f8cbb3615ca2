"""Four forgeries of a log that an intruder could try on the files, one a copy.

They change Kafka's own segment files, knowing their format: the hash tree alone gives them away.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from loom.log.segments import (
    CHECKED_FROM,
    CRC_AT,
    HEADER,
    Batch,
    calc_crc32c,
    plain,
    read_batch,
)

__all__ = ["FORGERIES", "Forged"]

Forged = tuple[int, int]
"""First and last offset that a forgery touched."""


def flip_byte(path: Path, target: int) -> Forged:
    """Change one byte of the record, and nothing else."""
    at, batch = batch_of(path, target)
    data = bytearray(path.read_bytes())
    data[at + len(batch.data) - 1] ^= 0x01
    path.write_bytes(data)
    return batch.base_offset, batch.last_offset


def flip_with_crc(path: Path, target: int) -> Forged:
    """Change one byte inside a record and make the batch's checksum fit again."""
    at, batch = batch_of(path, target)
    data = bytearray(plain(batch))
    data[HEADER.size + (len(data) - HEADER.size) // 2] ^= 0x01
    struct.pack_into(">I", data, CRC_AT, calc_crc32c(bytes(data[CHECKED_FROM:])))
    replace(path, at, len(batch.data), bytes(data))
    return batch.base_offset, batch.last_offset


def remove(path: Path, target: int) -> Forged:
    """Cut the record's batch out, without a trace in what is left."""
    at, batch = batch_of(path, target)
    replace(path, at, len(batch.data), b"")
    return batch.base_offset, batch.last_offset


def swap(path: Path, target: int) -> Forged:
    """Let the record's batch and the next one change places."""
    at, batch = batch_of(path, target)
    _, following = batch_of(path, batch.last_offset + 1)
    both = following.data + batch.data
    replace(path, at, len(both), both)
    return batch.base_offset, following.last_offset


FORGERIES: dict[str, Callable[[Path, int], Forged]] = {
    "a flipped byte": flip_byte,
    "a flipped byte with a checksum that fits": flip_with_crc,
    "a removed batch": remove,
    "batches that changed places": swap,
}


def batches(path: Path) -> Iterator[tuple[int, Batch]]:
    """Every batch of a segment file and the byte at which it begins."""
    with path.open("rb") as file:
        size, at = path.stat().st_size, 0
        while isinstance(batch := read_batch(file, at, size), Batch):
            yield at, batch
            at += len(batch.data)


def batch_of(path: Path, offset: int) -> tuple[int, Batch]:
    """The batch that holds an offset, and where it begins."""
    for at, batch in batches(path):
        if batch.base_offset <= offset <= batch.last_offset:
            return at, batch
    raise LookupError(f"{path.name} has no record {offset}")


def replace(path: Path, at: int, size: int, data: bytes) -> None:
    """Put other bytes in the place of some."""
    old = path.read_bytes()
    path.write_bytes(old[:at] + data + old[at + size :])
