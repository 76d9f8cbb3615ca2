"""What one organisation has appended, and by which schemas it may append.

    event id:  unknown ── EventAppended ──▶ known for 31 days ──▶ forgotten (Postgres knows it)
    batch:     BatchAccepted ──▶ pending ── BatchProcessed ──▶ … finished: gone
    schema:    SchemaRegistered ──▶ current ── SchemaDeprecated ──▶ deprecated

The built-in catalogue is not in the state: it is a constant of the code (`catalogue`).
"""

import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from loom.v1 import data_pb2 as pb

__all__ = ["KNOWN_US", "Known", "Pending", "Schema", "State", "due", "id_key", "initial", "order"]

KNOWN_US = 31 * 24 * 3600 * 1_000_000
"""How long an event's id is remembered without asking Postgres, by the log's own time."""


class Known(NamedTuple):
    """What a repeated id is compared with, and where the event stands in its stream."""

    digest: bytes
    version: int
    append_id: str


@dataclass(slots=True)
class Schema:
    """One version of a type's schema."""

    text: str
    digest: bytes
    upcast: tuple[pb.UpcastStep, ...] = ()
    deprecated: bool = False


@dataclass(slots=True)
class Pending:
    """An accepted batch whose events are not all appended."""

    events: tuple[pb.NewEvent, ...]
    submitted_by: str
    due_us: int
    old: dict[str, bytes]
    """Ids that were forgotten when it was accepted → digest."""
    done: int = 0


@dataclass(slots=True)
class State:
    """One organisation's streams, ids, schemas and waiting batches."""

    shard: str
    streams: dict[str, int] = field(default_factory=dict)
    """User's stream → its version."""
    known: dict[bytes, Known] = field(default_factory=dict)
    """`id_key` → event."""
    ages: deque[tuple[int, list[bytes]]] = field(default_factory=deque)
    """When ids became known, oldest first."""
    forgotten_us: int = 0
    """Log time of the newest event whose id is not remembered here any more."""
    schemas: dict[str, dict[str, Schema]] = field(default_factory=dict)
    """Type → version → schema, the organisation's own."""
    compatibility: dict[str, pb.Compatibility] = field(default_factory=dict)
    """Type → mode that its next version is checked for."""
    deprecated: set[str] = field(default_factory=set)
    """`type@version` of built-in schemas that the organisation does not want."""
    pending: dict[str, Pending] = field(default_factory=dict)


def initial(shard: str) -> State:
    """An organisation that never appended."""
    return State(shard)


def due(state: State) -> int | None:
    """When the next accepted batch must be appended."""
    return min((batch.due_us for batch in state.pending.values()), default=None)


def id_key(event_id: str) -> bytes:
    """An event's id as the state keeps it: short, whatever the caller's ids are like."""
    return hashlib.sha256(event_id.encode()).digest()[:16]


def order(version: str) -> tuple[int, int, int]:
    """A semantic version as numbers that compare."""
    major, minor, patch = version.split(".")
    return int(major), int(minor), int(patch)
