"""What a verification says: kinds of faults, each with its place, and a partition's report."""

from enum import StrEnum
from typing import NamedTuple

from .deletions import Deletion

__all__ = ["Fault", "Kind", "Report"]


class Kind(StrEnum):
    """What may be wrong with a record."""

    CHANGED = "changed"
    REMOVED = "removed"
    TRUNCATED = "truncated"
    OUT_OF_ORDER = "out of order"
    INSERTED = "inserted"
    DOUBLED = "doubled"
    DAMAGED = "damaged"
    MISSING = "missing"
    TREE = "tree"


class Fault(NamedTuple):
    """One difference, named by partition and offsets."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    kind: Kind
    detail: str

    def text(self) -> str:
        """One line for people."""
        span = str(self.first_offset)
        if self.last_offset != self.first_offset:
            span += f" to {self.last_offset}" if self.last_offset != -1 else " to the end"
        return f"{self.topic}-{self.partition} offset {span}: {self.kind}: {self.detail}"


class Report(NamedTuple):
    """What the verification of one partition found."""

    topic: str
    partition: int
    size: int
    """Leaves under the signature."""
    records: int
    """Records met that are under the signature."""
    unsigned: int
    """Records behind the last signed one; they are not judged yet."""
    faults: tuple[Fault, ...]
    deleted: tuple[tuple[Deletion, int], ...] = ()
    """What policies deleted, with the number of records."""
