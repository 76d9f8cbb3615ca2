"""Compares a partition's records with its signed tree and names what differs.

1. The tree is checked first: its leaves must give the signed root. Only then do they testify.
2. Every record is looked up by its offset: its digest and broker time must be the leaf's. Every
   leaf below the signed size must have been met once, in order.
3. Validity depends on the whole prefix, so it is compared only while nothing differs.
4. A record without its content is whole where the log's own `archive.deleted` event names it, and
   missing where none does. So `loomos.loomdb` is compared before what it speaks of.
5. Memory is bounded: one byte a leaf, and at most FAULTS_MAX faults a partition.
"""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

from .deletions import TOPIC, Deletion, Deletions
from .findings import Fault, Kind, Report
from .judge import Judge
from .judge import Kind as Judged
from .leaf import Leaf, leaf_of, topic_digest, unpack
from .misfit import Misfit, check_hashes, checked_leaves
from .segments import Damage, Stored, read_partition
from .survey import Sealed, heard_first, open_tree, open_trees
from .tiles import WIDTH, DamagedTree

__all__ = [
    "Fault",
    "Inspection",
    "Kind",
    "Report",
    "Sealed",
    "heard_first",
    "open_tree",
    "open_trees",
    "verify",
    "verify_folder",
]

FAULTS_MAX = 1000


def verify(
    sealed: Sealed, records: Iterable[Stored | Damage], deletions: Deletions | None = None
) -> Report:
    """Compare a partition's records with its tree; `deletions` hears and is asked."""
    inspection = Inspection(sealed, deletions)
    if not inspection.faults_in_tree:
        for record in records:
            match record:
                case Damage():
                    inspection.damage(record)
                case Stored():
                    inspection.record(record)
    return inspection.report()


def verify_folder(
    sealed: Sealed,
    log_dir: Path,
    archived: Callable[[int], Iterable[Stored | Damage]] | None = None,
    deletions: Deletions | None = None,
) -> Report:
    """Compare a partition's folder in a copy of the broker's log directory with its tree.

    `archived` gives the records before an offset, -1 for all, where the broker may have forgotten
    them.
    """
    folder = log_dir / f"{sealed.topic}-{sealed.partition}"
    kept = read_partition(folder) if folder.is_dir() else iter(())
    if archived is None:
        return verify(sealed, kept, deletions)
    first = next(kept, None)
    if first is None:
        return verify(sealed, archived(-1), deletions)
    begin = first.offset if isinstance(first, Stored) else first.first_offset
    return verify(sealed, chain(archived(begin), [first], kept), deletions)


class Inspection:
    """The comparison of one partition; feed it the records, then ask for the report."""

    def __init__(self, sealed: Sealed, deletions: Deletions | None = None) -> None:
        self.faults: list[Fault] = []
        self._deletions = deletions or Deletions()
        self._deleted: Counter[Deletion] = Counter()
        self._sealed = sealed
        self._tree = sealed.tree
        self._topic_digest = topic_digest(sealed.topic)
        self._judge = Judge()
        self._seen = bytearray()
        self._damaged: list[Damage] = []
        self._strangers: dict[bytes, int] = {}
        self._previous = self._previous_index = -1
        self._early = 0
        """Where the records last ran ahead of their order."""
        self._next_index = 0
        self._clean = True
        """Whether the leaves so far were met one by one: only then are verdicts comparable."""
        self._records = 0
        self._unsigned = 0
        self._first_offsets: list[int] = []
        self._last_offset = -1
        self._check_tree()

    @property
    def faults_in_tree(self) -> bool:
        """Whether the tree itself is not what was signed, so that it cannot testify."""
        return bool(self.faults) and self.faults[0].kind == Kind.TREE

    def record(self, stored: Stored) -> None:
        """Take the next record as it stands."""
        verdict = self._judge.admit(stored.key, stored.headers, stored.value, stored.mark)
        self._close_damage(stored.offset)
        index = self._index_of(stored.offset)
        self._clean = self._clean and index == self._next_index
        self._next_index += 1
        if index is None:
            if stored.offset > self._last_offset:
                self._unsigned += 1
            elif not stored.suspect:
                self._fault(stored.offset, Kind.INSERTED, "no record was signed at this offset")
            return
        if self._seen[index]:
            if not stored.suspect:
                self._fault(stored.offset, Kind.DOUBLED, "a second record with this offset")
            return
        if stored.offset < self._previous and not stored.suspect:
            detail = f"stands behind offset {self._early} to {self._previous}"
            self._fault(stored.offset, Kind.OUT_OF_ORDER, detail)
        elif index > self._previous_index + 1:
            self._early = stored.offset
        self._seen[index] = 1
        self._records += 1
        self._previous = max(self._previous, stored.offset)
        self._previous_index = max(self._previous_index, index)
        sealed = self._sealed
        leaf = leaf_of(
            self._topic_digest,
            sealed.partition,
            self._judge.incarnation,
            stored.offset,
            stored.timestamp_ms,
            verdict,
        )
        signed = unpack(self._tree.entry(index))
        self._compare(leaf, signed)
        if stored.mark:
            self._account_for(stored.offset)
        elif sealed.topic == TOPIC and signed.kind == Judged.EVENT and leaf.digest == signed.digest:
            self._deletions.hear(stored)

    def damage(self, damage: Damage) -> None:
        """Take a stretch that cannot be read as it was written."""
        self._clean = False
        self._close_damage(damage.first_offset)
        if damage.first_offset <= self._last_offset and len(self._damaged) < FAULTS_MAX:
            self._damaged.append(damage)

    def report(self) -> Report:
        """What was found; call it once, at the end."""
        if not self.faults_in_tree:
            self._explain_strangers()
            cut = bool(self._damaged) and self._damaged[-1].last_offset == -1
            self._close_damage(self._last_offset + 1)
            for damage in self._damaged:
                last = min(damage.last_offset, self._last_offset)
                kind = Kind.DAMAGED
                if cut and damage is self._damaged[-1] and damage.cut:
                    kind = Kind.TRUNCATED
                self._fault(damage.first_offset, kind, damage.what, last)
            self._report_unseen()
        sealed = self._sealed
        return Report(
            sealed.topic,
            sealed.partition,
            self._tree.size,
            self._records,
            self._unsigned,
            tuple(sorted(self.faults, key=lambda fault: fault[2:4])),
            tuple(sorted(self._deleted.items())),
        )

    def _check_tree(self) -> None:
        """The leaves must give the stored hashes and these the signed root, be this partition's,
        and stand in order."""
        sealed = self._sealed
        try:
            for number in range(-(-self._tree.size // WIDTH)):
                leaves = checked_leaves(self._tree, number, self._last_offset)
                self._first_offsets.append(leaves[0].offset)
                self._last_offset = leaves[-1].offset
                if {leaf[2:4] for leaf in leaves} != {(self._topic_digest, sealed.partition)}:
                    ends = leaves[0].offset, self._last_offset
                    raise Misfit(*ends, "leaves are of another partition")
            check_hashes(self._tree)
            if self._tree.root() != sealed.checkpoint.root:
                ends = min(self._first_offsets, default=0), max(self._last_offset, 0)
                raise Misfit(*ends, "the stored leaves do not give the signed root")
            self._seen = bytearray(self._tree.size)
        except Misfit as error:
            self._fault(error.first_offset, Kind.TREE, str(error), error.last_offset)
        except DamagedTree as error:
            self._fault(0, Kind.TREE, str(error), max(self._last_offset, 0))

    def _close_damage(self, next_offset: int) -> None:
        """Damage that ran to the end of its file ends where the next record stands."""
        if self._damaged and self._damaged[-1].last_offset == -1:
            damage = self._damaged[-1]
            last = max(damage.first_offset, next_offset - 1)
            self._damaged[-1] = damage._replace(last_offset=last)

    def _index_of(self, offset: int) -> int | None:
        """The leaf of an offset, or None; offsets may be sparse."""
        if offset > self._last_offset:
            return None
        number = bisect_right(self._first_offsets, offset) - 1
        if number < 0:
            return None
        entries = self._tree.entries(number)
        guess = offset - self._first_offsets[number]
        if guess < len(entries) and unpack(entries[guess]).offset == offset:
            return number * WIDTH + guess
        index = self._place_of(offset)
        return index if unpack(self._tree.entry(index)).offset == offset else None

    def _compare(self, leaf: Leaf, signed: Leaf) -> None:
        if leaf.digest != signed.digest:
            if len(self._strangers) < FAULTS_MAX:
                self._strangers[leaf.digest] = leaf.offset
            self._fault(leaf.offset, Kind.CHANGED, "not the record that was signed")
        elif leaf.time_ms != signed.time_ms:
            detail = f"broker time {leaf.time_ms}, signed was {signed.time_ms}"
            self._fault(leaf.offset, Kind.CHANGED, detail)
        elif leaf != signed and self._clean and not self.faults:
            detail = f"signed as kind {signed.kind}, by the rules it is of kind {leaf.kind}"
            self._fault(leaf.offset, Kind.CHANGED, detail)

    def _account_for(self, offset: int) -> None:
        """A record came without its content: say by what policy, or that it is missing."""
        deletion = self._deletions.of(self._sealed.topic, self._sealed.partition, offset)
        if deletion is None:
            detail = "its content is gone, and no event of the log says that a policy deleted it"
            self._fault(offset, Kind.MISSING, detail)
        else:
            self._deleted[deletion] += 1

    def _explain_strangers(self) -> None:
        """A changed record that was signed for another offset has been moved: say from where."""
        if not self._strangers:
            return
        home: dict[int, int] = {}
        for number in range(len(self._first_offsets)):
            for entry in self._tree.entries(number):
                leaf = unpack(entry)
                if leaf.digest in self._strangers:
                    home[self._strangers[leaf.digest]] = leaf.offset
        explained = []
        for fault in self.faults:
            if fault.kind == Kind.CHANGED and fault.first_offset in home:
                shift = home[fault.first_offset] - fault.first_offset
                offsets = range(fault.first_offset, fault.last_offset + 1)
                if all(home.get(offset) == offset + shift for offset in offsets):
                    detail = f"holds what was signed for offset {home[fault.first_offset]}"
                    if len(offsets) > 1:
                        detail += f" to {fault.last_offset + shift}"
                    fault = fault._replace(detail=f"{detail}: records were moved")
            explained.append(fault)
        self.faults = explained

    def _report_unseen(self) -> None:
        """Name the leaves without a record that no damage accounts for."""
        for damage in self._damaged:
            stretch = slice(
                self._place_of(damage.first_offset), self._place_of(damage.last_offset + 1)
            )
            self._seen[stretch] = self._seen[stretch].replace(b"\0", b"\2")
        for run in re.finditer(rb"\0+", self._seen):
            first = unpack(self._tree.entry(run.start())).offset
            last = unpack(self._tree.entry(run.end() - 1)).offset
            kind, where = Kind.REMOVED, ""
            if run.end() == len(self._seen):
                kind, where = Kind.TRUNCATED, " at the end"
            detail = f"{run.end() - run.start()} signed records{where} are not there"
            self._fault(first, kind, detail, last)

    def _place_of(self, offset: int) -> int:
        """How many leaves stand before an offset."""
        number = bisect_right(self._first_offsets, offset) - 1
        if number < 0:
            return 0
        entries = self._tree.entries(number)
        return number * WIDTH + bisect_left(entries, offset, key=lambda one: unpack(one).offset)

    def _fault(self, offset: int, kind: Kind, detail: str, last: int | None = None) -> None:
        """Note a fault; neighbours of one kind become one."""
        sealed = self._sealed
        last = offset if last is None else last
        if self.faults:
            before = self.faults[-1]
            if before.kind == kind and before.detail == detail and before.last_offset == offset - 1:
                self.faults[-1] = before._replace(last_offset=last)
                return
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(sealed.topic, sealed.partition, offset, last, kind, detail))
