"""What is known of an organisation's reads of the trail, its rules and its holds; the shard of the
platform also knows what is archived.

    (nothing) ── AuditTrailRead ──▶ read n times
    range: (nothing) ── ArchiveSealed ──▶ archived ── LogShortened ──▶ archived only
           archived ── ArchiveReplaced ──▶ archived, next generation
           archived only ── ArchiveDeleted ──▶ archived only, less content
    hold: (nothing) ── HoldPlaced ──▶ stands ── HoldReleased ──▶ (nothing)

A trail only grows; nothing ends it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from loom.v1 import loomdb_pb2 as pb

__all__ = ["PLATFORM", "HeldBy", "Range", "Retention", "Trail", "initial"]

PLATFORM = "platform"
"""The organisation that sees everything, and in whose shard the archive stands."""


class HeldBy(NamedTuple):
    """What a hold keeps: an event that fits every part that is not empty."""

    organisation_id: str
    subject: str
    correlation_id: str
    type_pattern: str


class Range(NamedTuple):
    """An archived range of a partition."""

    first_offset: int
    next_offset: int
    rows: int
    generation: int
    level: int
    base_after: str
    last_ms: int
    deleted: int


@dataclass(slots=True)
class Retention:
    """Rules, holds, and where the log's bytes are."""

    rules: dict[str, list[pb.RetentionRule]] = field(default_factory=dict)
    """By organisation."""
    holds: dict[str, HeldBy] = field(default_factory=dict)
    ranges: dict[tuple[str, int], dict[int, Range]] = field(default_factory=dict)
    """By topic and partition, by first offset."""
    begins: dict[tuple[str, int], int] = field(default_factory=dict)
    """Up to which offset Kafka may have forgotten."""
    deleted: dict[tuple[str, int, int], frozenset[int]] = field(default_factory=dict)
    """By topic, partition and first offset, the offsets whose content is to be gone."""


@dataclass(slots=True)
class Trail:
    """One organisation's share of LoomDB."""

    shard: str
    """The organisation's id."""
    reads: int = 0
    retention: Retention = field(default_factory=Retention)


def initial(shard: str) -> Trail:
    """The state of an organisation that never read."""
    return Trail(shard)
