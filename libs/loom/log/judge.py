"""Decides which records of a partition count: the one rule that writer, readers, notary and
verifier share (design rules 1 and 2, ADR 0003).

1. A marker is valid iff its epoch is the current epoch + 1; the first one wins. It may begin the
   next incarnation of a restored log.
2. Any other record is valid iff it carries the current incarnation, epoch and claim, its number is
   the claim's last + 1, and it names the digest of the claim's record before. The first one names
   the marker and, through it, the valid record before that: so a valid event proves that its writer
   had folded exactly the valid records before it. All else is void, for every reader alike.
3. Validity depends on the prefix of the log only, and reads nothing but the fixed header `loom`
   and the digest of the stored bytes. A valid record that cannot be decoded is never void.
"""

import hashlib
import struct
from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from typing import NamedTuple

HEADER = "loom"
"""The first Kafka header of every record; anything else in its place makes the record void."""
ATTRIBUTES = "ce"
"""The second header: what the record says beside its payload; the judge does not read it."""

_FIXED = struct.Struct(">BBIQ16sQII32s")
_VERSION = 1
ZERO_DIGEST = bytes(32)

Headers = Sequence[tuple[str, bytes]]


class Kind(IntEnum):
    """What a record turned out to be."""

    VOID = 0
    EVENT = 1
    MARKER = 2


_EVENT, _MARKER = Kind.EVENT, Kind.MARKER
filled = tuple.__new__
"""Makes a named tuple of all its fields, at half the cost: every reader makes five a record."""


class Stamp(NamedTuple):
    """The fixed header: who wrote the record, and where it stands among the claim's records."""

    kind: int
    """EVENT or MARKER."""
    incarnation: int
    epoch: int
    claim: bytes
    """128 random bits, fresh for each marker."""
    n: int
    """Counts the claim's records from 1; 0 for the marker."""
    i: int
    """Place in its command, from 1."""
    m: int
    """How many records the command has."""
    before: bytes
    """The chain: digest of the claim's record before, or of the marker and its past."""

    def pack(self) -> bytes:
        """The header's 78 bytes."""
        return _FIXED.pack(_VERSION, *self)


class Base(NamedTuple):
    """Where a reader may start: a command's boundary, and what is true just before `offset`."""

    incarnation: int = 0
    offset: int = 0
    epoch: int = 0
    claim: bytes = bytes(16)
    n: int = 0
    before: bytes = ZERO_DIGEST
    """What the next record must name: the digest of the valid record right before `offset`, or,
    where that is a marker, of the marker and what stood before it."""
    appended_ms: int = 0
    """The broker's time of that record: the same bytes, appended again, are another record."""

    def text(self) -> str:
        """One line of text, for storage; `parse` is the way back."""
        return (
            f"{self.incarnation}:{self.offset}:{self.epoch}:{self.claim.hex()}"
            f":{self.n}:{self.before.hex()}:{self.appended_ms}"
        )

    @classmethod
    def parse(cls, text: str) -> "Base":
        """The base that `text` gave; ValueError for anything else."""
        incarnation, offset, epoch, claim, n, before, appended_ms = text.split(":")
        return cls(
            int(incarnation),
            int(offset),
            int(epoch),
            bytes.fromhex(claim),
            int(n),
            bytes.fromhex(before),
            int(appended_ms),
        )


START = Base()
"""The beginning of every log."""


class Verdict(NamedTuple):
    """What the judge says of one record."""

    kind: Kind
    digest: bytes
    stamp: Stamp | None
    reason: str = ""
    """Why a void record is void."""
    chain: bytes = ZERO_DIGEST
    """What the next record must name, where this one is valid."""

    @property
    def valid(self) -> bool:
        """True for events and markers that count."""
        return self.kind is not Kind.VOID

    @property
    def closes(self) -> bool:
        """True where a command ends, so that a base may follow."""
        return self.kind == _MARKER or (
            self.kind == _EVENT and self.stamp is not None and self.stamp.i == self.stamp.m
        )


def digest(key: bytes | None, headers: Headers, value: bytes | None) -> bytes:
    """SHA-256 over the stored bytes: all lengths, then key, value, and the headers in order."""
    if len(headers) == 2 and key is not None and value is not None:
        (first, stamp), (second, said) = headers
        if first == HEADER and second == ATTRIBUTES and stamp is not None and said is not None:
            # The form of every record of ours, said in one go: digests are half of a reader's work.
            lengths = _USUAL.pack(7, 2, len(key), len(value), 4, len(stamp), 2, len(said), 0)
            return hashlib.sha256(
                b"".join((lengths, key, value, b"loom", stamp, b"ce", said))
            ).digest()
    parts = [bytes((key is None, value is None)), key or b"", value or b""]
    for name, data in headers:
        parts += (name.encode(), data or b"")
    count = len(parts)
    lengths = _lengths(count).pack(count, *map(len, parts))
    return hashlib.sha256(lengths + b"".join(parts)).digest()


_USUAL = struct.Struct(">I7IH")
"""The lengths of a record of two headers, and that neither key nor value is absent."""


@cache
def _lengths(count: int) -> struct.Struct:
    return struct.Struct(f">I{count}I")


def stamp_of(headers: Headers) -> Stamp | None:
    """The fixed header of a record, or None when it is missing or malformed."""
    if not headers or headers[0][0] != HEADER:
        return None
    data = headers[0][1]
    if data is None or len(data) != _FIXED.size:
        return None
    version, *fields = _FIXED.unpack(data)
    kind, _, _, _, _, place, count, _ = fields
    if version != _VERSION or not _EVENT <= kind <= _MARKER:
        return None
    if kind == _EVENT and not 1 <= place <= count:
        return None
    return filled(Stamp, fields)


class Judge:
    """Reads a partition from a base on, record by record, and tells void from valid."""

    __slots__ = ("before", "claim", "epoch", "incarnation", "n")

    def __init__(self, base: Base = START) -> None:
        self.incarnation = base.incarnation
        self.epoch = base.epoch
        self.claim = base.claim
        self.n = base.n
        self.before = base.before

    def admit(
        self, key: bytes | None, headers: Headers, value: bytes | None, mark: bytes = b""
    ) -> Verdict:
        """The verdict on the next record of the partition; `mark` is its digest where known."""
        mark = mark or digest(key, headers, value)
        stamp = stamp_of(headers)
        if stamp is None:
            return Verdict(Kind.VOID, mark, None, "no loom header")
        kind, incarnation, epoch, claim, n, _, _, before = stamp
        if (
            n == self.n + 1
            and before == self.before
            and claim == self.claim
            and epoch == self.epoch
            and incarnation == self.incarnation
            and kind == _EVENT
        ):
            # Nearly every record: the next of the claim.
            self.n = n
            self.before = mark
            return filled(Verdict, (_EVENT, mark, stamp, "", mark))
        reason = self._fault(stamp)
        if reason:
            return Verdict(Kind.VOID, mark, stamp, reason)
        self.incarnation = stamp.incarnation
        self.epoch = stamp.epoch
        self.claim = stamp.claim
        self.n = 0
        self.before = hashlib.sha256(mark + self.before).digest()
        return Verdict(Kind.MARKER, mark, stamp, "", self.before)

    def base(self, next_offset: int, appended_ms: int) -> Base:
        """The base after the last record admitted, which must have closed its command."""
        return Base(
            self.incarnation,
            next_offset,
            self.epoch,
            self.claim,
            self.n,
            self.before,
            appended_ms,
        )

    def _fault(self, stamp: Stamp) -> str:
        """Why a record that is not the claim's next event does not count; "" for a new claim."""
        # A restored log goes on in the next incarnation, which only a marker may begin.
        later = int(stamp.kind == Kind.MARKER)
        if not self.incarnation <= stamp.incarnation <= self.incarnation + later:
            return f"incarnation {stamp.incarnation}, the log's is {self.incarnation}"
        if stamp.kind == Kind.MARKER:
            if stamp.epoch != self.epoch + 1:
                return f"marker of epoch {stamp.epoch}, expected {self.epoch + 1}"
            return "" if stamp.n == 0 else f"marker numbered {stamp.n}"
        if stamp.epoch != self.epoch:
            return f"epoch {stamp.epoch}, the current one is {self.epoch}"
        if stamp.claim != self.claim:
            return "another claim"
        if stamp.n != self.n + 1:
            return f"number {stamp.n}, expected {self.n + 1}"
        return "does not follow the record before it"
