"""What the client takes and gives: events, schemas, what became of them."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

__all__ = ["Appended", "Batch", "Event", "Report", "Schema"]


@dataclass(slots=True)
class Event:
    """An event to append. Its id is made here where none is given, so that a retry counts once."""

    type: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    event_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    stream: str = ""
    """Empty: the type's own."""
    schema_version: str = ""
    """Empty: the newest."""
    occurred_at: datetime | None = None
    correlation_id: str = ""
    causation_id: str = ""
    data_subject: str = ""
    """Pseudonym of whose personal data the payload holds."""
    tags: Sequence[str] = ()
    priority: str = ""
    """low, normal, high or critical."""
    retention_override_days: int = 0
    context: Mapping[str, Any] = field(default_factory=dict)
    """user_id, session_id, request_id, source_ip, user_agent, compliance_level, cost_center,
    project_id."""
    security: Mapping[str, Any] = field(default_factory=dict)
    """authentication_method, authorization_roles, access_level, data_classification,
    geographic_restriction."""

    def as_json(self) -> dict[str, Any]:
        """The event as the gateway takes it."""
        told: dict[str, Any] = {
            "type": self.type,
            # As text no digit of a number is lost on the way.
            "payload_json": json.dumps(self.payload, ensure_ascii=False, allow_nan=False),
            "event_id": self.event_id,
        }
        for name in ("stream", "schema_version", "correlation_id", "causation_id", "data_subject"):
            if value := getattr(self, name):
                told[name] = value
        if self.occurred_at is not None:
            moment = self.occurred_at.astimezone(UTC)
            told["occurred_at_us"] = str(round(moment.timestamp() * 1_000_000))
        metadata = {
            "tags": list(self.tags),
            "priority": self.priority,
            "retention_override_days": self.retention_override_days,
        }
        for name, inner in (
            ("context", dict(self.context)),
            ("security", dict(self.security)),
            ("metadata", {key: one for key, one in metadata.items() if one}),
        ):
            if inner:
                told[name] = inner
        return told


@dataclass(frozen=True, slots=True)
class Appended:
    """An event that is in the log, and where."""

    event_id: str
    stream: str
    version: int
    topic: str
    partition: int
    offset: int
    duplicate: bool
    """True where the organisation had it already."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that was handed over."""

    batch_id: str
    events: int
    pending: int
    events_processed: int
    duplicates: int
    refused: tuple[Mapping[str, Any], ...]
    processing_time_ms: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A compliance report; `loomos-verify` checks it with its manifest beside it."""

    content: bytes
    media_type: str
    rows: int
    parts: int
    """Parts that it has at this cut: ask for each with `part=` and the same `cut=`."""
    cut: str
    """Asked for again with it, the report has the same bytes."""
    manifest: str
    public_key: str


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of a type's schema."""

    event_type: str
    version: str
    schema: Mapping[str, Any]
    deprecated: bool
    builtin: bool
