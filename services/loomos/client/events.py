"""The client's appends."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from loomos.client.addresses import segment
from loomos.client.event import Appended, Batch, Event
from loomos.client.gateway import Door
from loomos.client.profile import Refused

__all__ = ["append", "append_many", "get_batch", "submit_batch"]

CALL_EVENTS_MAX = 1000
CALL_BYTES_MAX = 3_000_000
EVENT_BYTES = 700
"""What an event takes in the log beside what it says, counted generously."""


def append(
    door: Door, organisation: str, event: Event, expected: int | None, consistency: str
) -> Appended:
    """One event."""
    body: dict[str, Any] = {"event": event.as_json()} | leveled(consistency)
    if expected is not None:
        body["expected_stream_version"] = str(expected)
    answer = door.call("POST", f"/api/v1/organisations/{organisation}/events", body)
    return appended(answer["events"][0])


def append_many(
    door: Door,
    organisation: str,
    events: Iterable[Event],
    expected: Mapping[str, int],
    consistency: str,
) -> list[Appended]:
    """Events in as few calls as they fit into."""
    calls = parts(events)
    found: list[Appended] = []
    path = f"/api/v1/organisations/{organisation}/events/batch"
    given = [{"stream": name, "version": str(version)} for name, version in expected.items()]
    if given:
        calls = iter(list(calls))
    for number, part in enumerate(calls):
        if given and number:
            told = "events with expected versions must fit into one call"
            raise Refused(0, "INVALID_ARGUMENT", told)
        body = {"events": part, "expected": given} | leveled(consistency)
        answer = door.call("POST", path, body)
        found += map(appended, answer["events"])
    return found


def leveled(consistency: str) -> dict[str, Any]:
    """The level as a request says it; nothing where none is asked for."""
    return {"consistency": f"CONSISTENCY_{consistency.upper()}"} if consistency else {}


def parts(events: Iterable[Event]) -> Iterator[list[dict[str, Any]]]:
    """The events in parts that a call takes."""
    part: list[dict[str, Any]] = []
    size = 0
    for event in events:
        told = event.as_json()
        weight = len(json.dumps(told)) + EVENT_BYTES
        if part and (len(part) == CALL_EVENTS_MAX or size + weight > CALL_BYTES_MAX):
            yield part
            part, size = [], 0
        part.append(told)
        size += weight
    if part:
        yield part


def appended(one: Mapping[str, Any]) -> Appended:
    """One event of an answer."""
    place = one["position"]
    return Appended(
        event_id=one["event_id"],
        stream=one["stream"],
        version=int(one["version"]),
        topic=place["topic"],
        partition=int(place["partition"]),
        offset=int(place["offset"]),
        duplicate=one["duplicate"],
    )


def submit_batch(door: Door, organisation: str, events: Sequence[Event], max_wait_ms: int) -> Batch:
    """Hand events over."""
    body = {"events": [event.as_json() for event in events], "max_wait_ms": max_wait_ms}
    path = f"/api/v1/organisations/{organisation}/event-batches"
    return batch_of(door.call("POST", path, body))


def get_batch(door: Door, organisation: str, batch_id: str) -> Batch:
    """How far a batch is."""
    path = f"/api/v1/organisations/{organisation}/event-batches/{segment(batch_id)}"
    return batch_of(door.call("GET", path))


def batch_of(answer: Mapping[str, Any]) -> Batch:
    """A batch as it is answered."""
    return Batch(
        batch_id=answer["batch_id"],
        events=int(answer["events"]),
        pending=int(answer["pending"]),
        events_processed=int(answer["events_processed"]),
        duplicates=int(answer["duplicates"]),
        refused=tuple(answer["refused"]),
        processing_time_ms=int(answer["processing_time_ms"]),
        finished=bool(answer["finished"]),
    )
