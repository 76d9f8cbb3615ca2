"""The Python client of LoomOS: append events, keep their schemas, search and follow and report.

    from loomos import Client, Event

    with Client.open() as client:  # LOOMOS_API_KEY, or a profile of this machine
        client.append("job.completed", {"job_id": "j-7", "status": "failed"}, tags=["nightly"])
        steps = (Event("model.training.checkpoint", {"epoch": 1, "step": n}) for n in range(500))
        client.append_many(steps)
        for event in client.search(["model."], where=["data.hardware_config.gpu_count >= 4"]):
            print(event["type"], event["payload"]["payload"])

1. What is not answered is asked again under the same ids, so it happens once.
2. The gateway is trusted by the authority that the caller names, never by default; a key is never
   shown.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from loomos.client import query as questions
from loomos.client.event import Appended, Batch, Event, Report, Schema
from loomos.client.events import append, append_many, get_batch, submit_batch
from loomos.client.gateway import Door
from loomos.client.profile import Refused
from loomos.client.schemas import deprecate_schema, get_schema, list_schemas, register_schema
from loomos.client.subscribe import Asked, Delivery, subscribe

__all__ = ["Appended", "Batch", "Client", "Delivery", "Event", "Refused", "Report", "Schema"]


class Client:
    """One identity's way to one organisation's events; not for several threads at once."""

    def __init__(
        self, gateway: str, api_key: str, ca: str | Path, *, organisation: str = ""
    ) -> None:
        """`gateway` is https://host:port, `ca` the file of the authority to trust for it.

        The organisation is the key's own where none is given.
        """
        self._use(Door(gateway, Path(ca), key=api_key), organisation)

    def _use(self, door: Door, organisation: str) -> None:
        self.door = door
        self.organisation = organisation or door.organisation_id
        if not self.organisation:
            told = "this is no API key: `loomos key create` makes one"
            raise Refused(0, "UNAUTHENTICATED", told)

    @classmethod
    def open(
        cls,
        profile: str = "",
        *,
        organisation: str = "",
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        """The client that LOOMOS_API_KEY, LOOMOS_GATEWAY and LOOMOS_CA describe, or a profile.

        `loomos login` saves profiles; without a name the only one is taken.
        """
        client = cls.__new__(cls)
        client._use(Door.open(profile, environ), organisation)
        return client

    def append(
        self,
        event_type: str,
        payload: Mapping[str, Any],
        *,
        expected_stream_version: int | None = None,
        consistency: str = "",
        **more: Any,
    ) -> Appended:
        """Append one event; `more` are fields of `Event`, e.g. stream, tags, priority, event_id.

        `consistency` is one, quorum or all: how many copies stand before it is acknowledged.

        Example: client.append("job.completed", {"job_id": "j-7", "status": "ok"}, tags=["prod"])
        """
        event = Event(event_type, payload, **more)
        return append(self.door, self.organisation, event, expected_stream_version, consistency)

    def append_many(
        self,
        events: Iterable[Event],
        *,
        expected: Mapping[str, int] | None = None,
        consistency: str = "",
    ) -> list[Appended]:
        """Append events, each call of at most 1,000 whole or not at all.

        More than fit into one call are sent in several; `expected` says stream versions before the
        first of them, and then all must fit into one.

        Example: client.append_many([Event("job.submitted", {"job_id": "j-8"})])
        """
        return append_many(self.door, self.organisation, events, expected or {}, consistency)

    def submit_batch(self, events: Sequence[Event], *, max_wait_ms: int = 0) -> Batch:
        """Hand over at most 1,000 events and go on; they are in the log when this returns.

        Example: batch = client.submit_batch(events, max_wait_ms=5000)
        """
        return submit_batch(self.door, self.organisation, events, max_wait_ms)

    def get_batch(self, batch_id: str) -> Batch:
        """How far a batch is that was handed over."""
        return get_batch(self.door, self.organisation, batch_id)

    def register_schema(
        self,
        event_type: str,
        version: str,
        schema: Mapping[str, Any],
        *,
        compatibility: str = "",
        upcast: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Register a version of a type's schema, JSON Schema 2020-12.

        `compatibility` is e.g. "backward-transitive" or "none"; a step of `upcast` is e.g.
        {"action": "default", "path": "who", "value": "nobody"}.

        Example: client.register_schema("lab.sample.taken", "1.0.0", {"type": "object"})
        """
        register_schema(
            self.door, self.organisation, event_type, version, schema, compatibility, upcast
        )

    def deprecate_schema(self, event_type: str, version: str, reason: str = "") -> None:
        """Take no new events by a version."""
        deprecate_schema(self.door, self.organisation, event_type, version, reason)

    def get_schema(self, event_type: str, version: str = "latest") -> Schema:
        """One version of a type's schema."""
        return get_schema(self.door, self.organisation, event_type, version)

    def list_schemas(self, prefix: str = "") -> Iterator[Schema]:
        """The schemas that may be used, the built-in ones among them."""
        return list_schemas(self.door, self.organisation, prefix)

    def query(self, event_type: str = "", **filters: Any) -> Iterator[dict[str, Any]]:
        """Events of the audit index, oldest first; each page that is read is itself recorded.

        `event_type` is what types begin with; filters: from_us, to_us, actor, stream,
        correlation_id.

        Example: for event in client.query("model.training."): print(event["payload"]["payload"])
        """
        return questions.query(self.door, self.organisation, event_type, filters)

    def search(
        self,
        types: Sequence[str] = (),
        *,
        where: Sequence[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        order_by: Literal["timestamp", "type", "actor"] = "timestamp",
        descending: bool = False,
        limit: int = 0,
        as_of: str = "",
        upcast: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Events that fit all conditions, page by page; a type that ends in a dot means a prefix.

        A condition is PATH OPERATOR VALUE, with = != < <= > >= in contains prefix exists.

        Example: list(client.search(["model."], where=["tags contains healthcare",
        "data.hardware_config.gpu_count >= 4", "context.compliance_level = SOC2_TYPE2"], limit=100))
        """
        asked = {
            "types": types,
            "where": where,
            "since": since,
            "until": until,
            "order": "" if order_by == "timestamp" else f"EVENT_ORDER_{order_by.upper()}",
            "descending": descending,
            "limit": limit,
            "as_of": as_of,
            "upcast": upcast,
        }
        return questions.search(self.door, self.organisation, asked)

    def analyze(self, types: Sequence[str] = (), **asked: Any) -> dict[str, Any]:
        """Groups of events: counts, success rates, duration percentiles, costs, projections.

        `asked`: where, since, until, as_of; group_by, bucket (15m, 1h, 1d, 1mo); outcome with
        successes and failures; begins and ends with span; cost with projection_months.

        Example: client.analyze(["model.training."], group_by=["data.model_architecture"],
        bucket="1mo", outcome="type", successes=["model.training.complete"],
        failures=["model.training.failed"], cost="data.cost_dollars")["groups"]
        """
        return questions.analyze(self.door, self.organisation, {"types": types, **asked})

    def get_event(self, event_id: str) -> dict[str, Any]:
        """One event, by your own id of it or by the log's."""
        return questions.get_event(self.door, self.organisation, event_id)

    def causes(self, event_id: str) -> list[dict[str, Any]]:
        """An event and what led to it, back to the beginning."""
        return questions.walk(self.door, self.organisation, event_id, "CAUSES")

    def effects(self, event_id: str) -> list[dict[str, Any]]:
        """An event and what it led to."""
        return questions.walk(self.door, self.organisation, event_id, "EFFECTS")

    def sql(self, text: str, *, cold: bool = False) -> list[dict[str, Any]]:
        """The rows of one SELECT over the views `events`, `stories`, `commands`; `cold`: `records`.

        Example: client.sql("SELECT type, count(*) AS n FROM events GROUP BY type")
        """
        return questions.sql(self.door, self.organisation, text, cold)

    def report(
        self,
        kind: Literal["access", "activity", "lineage", "subject"],
        form: Literal["json", "html", "pdf"] = "json",
        **asked: Any,
    ) -> Report:
        """A compliance report: access and activity of a period, lineage of a thing, a subject's.

        `asked`: period; actor; thing_id; subject_id; cut, to have the same bytes again; part.

        Example: Path("q4.pdf").write_bytes(client.report("access", "pdf", period="2026Q4").content)
        """
        return questions.report(self.door, self.organisation, kind, form, asked)

    def subscribe(
        self,
        *types: str,
        where: Sequence[str] = (),
        from_beginning: bool = False,
        cursor: str = "",
        until_live: bool = False,
    ) -> Iterator[Delivery]:
        """Events as they come, from now on or from where it is said; goes on over broken lines.

        A type that ends in a dot means all that begin so. At least once: an event may come again
        after a break; its `event_id` tells. A `Delivery` carries the cursor to go on from later.

        Example: for one in client.subscribe("job."): print(one.event["type"], one.cursor)
        """
        asked = Asked(types, where, from_beginning, cursor, until_live)
        return subscribe(self.door, self.organisation, asked)

    def close(self) -> None:
        """Close the connections."""
        self.door.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
