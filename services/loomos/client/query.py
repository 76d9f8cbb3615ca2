"""The client's questions to the audit index. Each page that is read is itself recorded."""

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from loomos.client.addresses import segment
from loomos.client.event import Report
from loomos.client.gateway import Door

__all__ = ["analyze", "get_event", "query", "report", "search", "sql", "walk"]

PAGE = 500


def query(
    door: Door, organisation: str, event_type: str, filters: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Events, oldest first, page by page."""
    asked = {**filters, "type_prefix": event_type, "limit": PAGE}
    return door.pages(at(organisation, "events"), "events", asked)


def search(door: Door, organisation: str, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Events that fit, in their order, page by page; as many as were asked for."""
    most = asked.get("limit") or 0
    body, found = said(asked) | {"limit": min(most or PAGE, PAGE)}, 0
    while True:
        page = door.call("POST", at(organisation, "events/search"), body, reads=True)
        for event in page["events"]:
            yield event
            found += 1
            if found == most:
                return
        if not page["next_cursor"]:
            return
        body["cursor"] = page["next_cursor"]


def analyze(door: Door, organisation: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Counts, rates, durations and costs by groups, and what is projected."""
    return door.call("POST", at(organisation, "events/analyze"), said(asked), reads=True)


def get_event(door: Door, organisation: str, event_id: str) -> dict[str, Any]:
    """One event."""
    return door.call("GET", at(organisation, f"events/{segment(event_id)}"))


def walk(door: Door, organisation: str, event_id: str, way: str) -> list[dict[str, Any]]:
    """An event with what led to it, or what it led to."""
    path = at(organisation, f"events/{segment(event_id)}/causality")
    found = door.call("GET", path, params={"direction": f"CAUSAL_DIRECTION_{way}"})
    return [entry["event"] for entry in found["entries"]]


def sql(door: Door, organisation: str, text: str, cold: bool) -> list[dict[str, Any]]:
    """The rows of one SELECT."""
    found = door.call("POST", at(organisation, "sql"), {"sql": text, "cold": cold}, reads=True)
    rows = (json.loads(row) for row in found["rows"])
    return [dict(zip(found["columns"], row, strict=True)) for row in rows]


def report(door: Door, organisation: str, kind: str, form: str, asked: Mapping[str, Any]) -> Report:
    """A report as a file, and what proves it."""
    body = said(asked) | {"format": f"REPORT_FORMAT_{form.upper()}"}
    made = door.call(
        "POST", f"/api/v1/organisations/{organisation}/reports/{kind}", body, reads=True
    )
    return Report(
        content=base64.b64decode(made["content"]),
        media_type=made["media_type"],
        rows=int(made["rows"]),
        parts=int(made["parts"]) or 1,
        cut=made["cut"],
        manifest=made["manifest"],
        public_key=made["public_key"],
    )


def at(organisation: str, rest: str) -> str:
    """A path of the audit index."""
    return f"/api/v1/organisations/{organisation}/audit/{rest}"


def said(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for as the gateway takes it; without a zone a time is UTC."""
    told = {name: value for name, value in asked.items() if value}
    for name, field in (("since", "from_us"), ("until", "to_us")):
        if moment := told.pop(name, None):
            told[field] = str(micros(moment))
    for name in ("types", "where", "group_by", "successes", "failures", "ends"):
        if name in told:
            told[name] = list(told[name])
    return told


def micros(moment: datetime) -> int:
    """A time in microseconds since 1970."""
    whole = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(whole.timestamp() * 1_000_000)
