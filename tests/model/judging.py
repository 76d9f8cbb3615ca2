"""Verdicts of the model: the production judge's, or rules 1 and 2 with one clause taken out.

Abstract records are put into their real form, so the judge under test is the one that ships.
"""

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from loom.log.judge import HEADER, ZERO_DIGEST, Judge, Kind, Stamp, digest

if TYPE_CHECKING:
    from tests.model.log import Record

__all__ = ["JUDGE_CLAUSES", "START", "Tip", "Verdicts"]

JUDGE_CLAUSES = frozenset(
    {"marker_epoch", "record_epoch", "record_claim", "record_number", "record_digest"}
)


class Tip(NamedTuple):
    """What a judge holds: all that the next verdict depends on."""

    epoch: int
    claim: int
    number: int
    digest: int


START = Tip(0, -1, 0, -1)


class Verdicts:
    """Judges abstract records; `digests` turns their numbers into the bytes that are stored."""

    def __init__(self, without: frozenset[str]) -> None:
        self.without = without & JUDGE_CLAUSES
        self.digests: list[bytes] = []

    def admit(self, tip: Tip, record: "Record", identity: int) -> tuple[bool, Tip]:
        """Whether the record is valid after this tip, and the tip after it."""
        valid = self._weakened(tip, record) if self.without else self._production(tip, record)
        if not valid:
            return False, tip
        if record.marker:
            return True, Tip(record.epoch, record.claim, 0, identity)
        return True, Tip(tip.epoch, tip.claim, record.number, identity)

    def stored(self, record: "Record") -> tuple[bytes, list[tuple[str, bytes]], bytes]:
        """The record's key, headers and value as they would stand in the log."""
        kind = Kind.MARKER if record.marker else Kind.EVENT
        stamp = Stamp(
            kind, 0, record.epoch, _claim(record.claim), record.number,
            record.part, record.parts, self._digest(record.before),
        )  # fmt: skip
        value = f"{record.command} {record.answer} {record.forged}".encode()
        return b"shard", [(HEADER, stamp.pack())], value

    def learn(self, record: "Record") -> None:
        """Note the digest of the next record of the table."""
        self.digests.append(digest(*self.stored(record)))

    def _digest(self, identity: int) -> bytes:
        return self.digests[identity] if identity >= 0 else ZERO_DIGEST

    def _production(self, tip: Tip, record: "Record") -> bool:
        judge = Judge()
        judge.epoch, judge.n = tip.epoch, tip.number
        if tip != START:
            judge.claim, judge.before = _claim(tip.claim), self._digest(tip.digest)
        return judge.admit(*self.stored(record)).valid

    def _weakened(self, tip: Tip, record: "Record") -> bool:
        if record.marker:
            return record.epoch == tip.epoch + 1 or "marker_epoch" in self.without
        return (
            (record.epoch == tip.epoch or "record_epoch" in self.without)
            and (record.claim == tip.claim or "record_claim" in self.without)
            and (record.number == tip.number + 1 or "record_number" in self.without)
            and (record.before == tip.digest or "record_digest" in self.without)
        )


def _claim(number: int) -> bytes:
    return hashlib.sha256(b"claim %d" % number).digest()[:16]
