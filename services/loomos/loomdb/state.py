"""What is known of an organisation's reads of the trail, its rules and its holds; the shard of the
platform also knows what is archived.

    (nothing) ── AuditTrailRead ──▶ read n times
    range: (nothing) ── ArchiveSealed ──▶ archived ── LogShortened ──▶ archived only
           archived ── ArchiveReplaced ──▶ archived, next generation
           archived only ── ArchiveDeleted ──▶ archived only, less content
    run: (nothing) ── ArchiveRequested ──▶ asked for ── ArchiveRunFinished ──▶ (nothing)
    erasure: (nothing) ── SubjectErased ──▶ ordered ── KeyDestroyed ──▶ done
    rotation: (nothing) ── RotationOrdered ──▶ ordered ── KeyRotated ──▶ (nothing)
    subscription: (nothing) ── SubscriptionCreated ──▶ stands ── SubscriptionDeleted ──▶ (nothing)
    dead letter: (nothing) ── DeliveriesBuried ──▶ dead ── DeliveriesReplayed ──▶ under way again
                 under way again ── SubscriptionAdvanced ──▶ (nothing), or DeliveriesBuried ──▶ dead
    feed: (off) ── FeedEnabled ──▶ on ── FeedDisabled ──▶ (off)
    alert: (nothing) ── AlertRaised ──▶ raised ── AlertAcknowledged ──▶ minded
           raised or minded ── AlertResolved ──▶ (nothing)
    hold: (nothing) ── HoldPlaced ──▶ stands ── HoldReleased ──▶ (nothing)

A trail only grows; nothing ends it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from loom.v1 import loomdb_pb2 as pb

__all__ = [
    "PLATFORM",
    "Alerts",
    "HeldBy",
    "Keys",
    "OpenAlert",
    "Raise",
    "Range",
    "Retention",
    "Subscribed",
    "Trail",
    "initial",
]

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
    runs: dict[str, pb.ArchiveRequested] = field(default_factory=dict)
    """What operators asked of the archiver and it has not done, by its id."""


@dataclass(slots=True)
class Keys:
    """What is ordered of keys and not done yet; which subjects were erased."""

    erasing: dict[str, str] = field(default_factory=dict)
    """Erasure that is ordered → subject."""
    erased: dict[str, int] = field(default_factory=dict)
    """Subject → how often it was erased."""
    rotating: dict[str, str] = field(default_factory=dict)
    """Subject → key that is to have a successor."""
    rewrapping: bool = False


@dataclass(slots=True)
class Subscribed:
    """A subscription that remembers its consumers, and its dead letters."""

    name: str
    letters: dict[int, bool] = field(default_factory=dict)
    """Number → whether it is being delivered again."""
    numbered: int = 0
    """The highest number that was given."""


class Raise(NamedTuple):
    """The newest alert of a rule's group."""

    alert_id: str
    at_us: int
    cause_id: str


@dataclass(slots=True)
class OpenAlert:
    """An alert that is not resolved."""

    rule_id: str
    group: str
    thing_id: str
    targets: tuple[str, ...]
    minded: bool = False
    counted_to_us: int = 0
    """What came up to then during the cool-down is counted."""


@dataclass(slots=True)
class Alerts:
    """Rules, the places that are told, and what is open."""

    rules: dict[str, pb.AlertSpec] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    """Id → name."""
    open: dict[str, OpenAlert] = field(default_factory=dict)
    raised: dict[tuple[str, str], Raise] = field(default_factory=dict)
    """By rule and group."""
    retries: dict[tuple[str, str], int] = field(default_factory=dict)
    """By rule and what was tried again."""


@dataclass(slots=True)
class Trail:
    """One organisation's share of LoomDB."""

    shard: str
    """The organisation's id."""
    reads: int = 0
    retention: Retention = field(default_factory=Retention)
    keys: Keys = field(default_factory=Keys)
    subscriptions: dict[str, Subscribed] = field(default_factory=dict)
    feed: tuple[int, bool] | None = None
    """What may stand in the feed at most, as the contract numbers it, and whether payloads are
    brought up to their newest schema; None while it is off."""
    alerts: Alerts = field(default_factory=Alerts)


def initial(shard: str) -> Trail:
    """The state of an organisation that never read."""
    return Trail(shard)
