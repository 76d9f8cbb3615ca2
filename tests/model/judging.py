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
    {
        "chained_claims",
        "marker_epoch",
        "record_epoch",
        "record_claim",
        "record_number",
        "record_digest",
    }
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
        self._judge = self._production if not self.without else self._weakened
        self.digests: list[bytes] = []
        self.chained: dict[tuple[int, int], int] = {}
        """What the first record of a claim names: its marker, and the valid record before that."""
        self.chain_digests = [ZERO_DIGEST]

    def admit(self, tip: Tip, record: "Record", identity: int) -> tuple[bool, Tip]:
        """Whether the record is valid after this tip, and the tip after it."""
        valid = self._judge(tip, record)
        if not valid:
            return False, tip
        if record.marker:
            return True, Tip(record.epoch, record.claim, 0, self._chain(identity, tip.digest))
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

    def _chain(self, marker: int, before: int) -> int:
        if "chained_claims" in self.without:
            return marker
        known = self.chained.get((marker, before))
        if known is None:
            both = self.digests[marker] + self._digest(before)
            self.chain_digests.append(hashlib.sha256(both).digest())
            known = self.chained[marker, before] = -len(self.chain_digests)
        return known

    def _digest(self, identity: int) -> bytes:
        """Of a record by its number; numbers below 0 stand for chains, -1 for the beginning."""
        return self.digests[identity] if identity >= 0 else self.chain_digests[-identity - 1]

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
