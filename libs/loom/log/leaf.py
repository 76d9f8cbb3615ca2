"""The leaf of one record: a fixed-size stand-in for it in the hash tree.

1. Every record has a leaf, void ones too; a void leaf carries no epoch and no number, because what
   a void record says of itself counts for nothing.
2. The record's bytes enter by digest only, so erasing a key or archiving a segment leaves every
   proof valid.
"""

import struct
from hashlib import sha256
from typing import NamedTuple

from .judge import Kind, Verdict

_FIXED = struct.Struct(">BI32sIqqQQ32s")
LEAF_BYTES = _FIXED.size


class Leaf(NamedTuple):
    """What the tree says of one record."""

    kind: int
    """0 void, 1 event, 2 marker (judge.Kind)."""
    incarnation: int
    topic: bytes
    """SHA-256 of the topic's name."""
    partition: int
    offset: int
    time_ms: int
    """The broker's time (LogAppendTime)."""
    epoch: int
    n: int
    digest: bytes
    """judge.digest of the stored bytes."""

    def pack(self) -> bytes:
        """The leaf's bytes."""
        return _FIXED.pack(*self)


def unpack(data: bytes) -> Leaf:
    """The leaf that `pack` gave; ValueError for anything else."""
    if len(data) != LEAF_BYTES:
        raise ValueError(f"a leaf has {LEAF_BYTES} bytes, this one {len(data)}")
    leaf = Leaf._make(_FIXED.unpack(data))
    if leaf.kind not in (Kind.VOID, Kind.EVENT, Kind.MARKER):
        raise ValueError(f"a leaf's kind is 0, 1 or 2, this one's {leaf.kind}")
    return leaf


def topic_digest(topic: str) -> bytes:
    """How a leaf names its topic."""
    return sha256(topic.encode()).digest()


def leaf_of(
    topic: bytes, partition: int, incarnation: int, offset: int, time_ms: int, verdict: Verdict
) -> Leaf:
    """The leaf of a judged record; `topic` is its digest."""
    stamp = verdict.stamp if verdict.valid else None
    epoch, n = (stamp.epoch, stamp.n) if stamp else (0, 0)
    return Leaf(
        int(verdict.kind), incarnation, topic, partition, offset, time_ms, epoch, n, verdict.digest
    )
