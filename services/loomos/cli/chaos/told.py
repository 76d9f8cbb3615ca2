"""What callers were told of their own events, compared with the log: I1, I2 and I7."""

from collections import Counter
from collections.abc import Mapping

from google.protobuf.message import Message

from loom.decider import Recorded
from loom.v1 import data_pb2
from loomos.cli.chaos.appends import events_in
from loomos.cli.soak.load import ACKNOWLEDGED, Outcome

__all__ = ["broken_causes", "broken_ids"]


def broken_ids(
    requests: Mapping[str, Message], outcomes: Mapping[str, Outcome], events: list[Recorded]
) -> list[str]:
    """I1 and I2 by the users' own ids."""
    found: Counter[tuple[str, str]] = Counter()
    batched: set[tuple[str, str]] = set()
    for one in events:
        match one.event:
            case data_pb2.EventAppended():
                found[(one.event.organisation_id, one.event.event_id)] += 1
            case data_pb2.BatchAccepted():
                batched |= {(one.event.organisation_id, each.event_id) for each in one.event.events}
            case _:
                pass
    wanted: set[tuple[str, str]] = set()
    possible: set[tuple[str, str]] = set()
    for command_id, request in requests.items():
        organisation = getattr(request, "organisation_id", "")
        ids = {(organisation, event.event_id) for event in events_in(request)}
        kind = outcomes[command_id].kind if command_id in outcomes else "unknown"
        if kind == ACKNOWLEDGED:
            wanted |= ids
        if kind != "refused":
            possible |= ids
    broken = [f"I1: event {one} stands {count} times" for one, count in found.items() if count > 1]
    broken += [
        f"I1: event {one} was acknowledged and is not in the log"
        for one in sorted(wanted - set(found) - batched)
    ]
    asked = {
        (getattr(request, "organisation_id", ""), event.event_id)
        for request in requests.values()
        for event in events_in(request)
    }
    refused = asked - possible
    broken += [f"I2: event {one} was refused and stands" for one in sorted(refused & set(found))]
    return broken


def broken_causes(events: list[Recorded]) -> list[str]:
    """I7: each cause named is an earlier event or a command that left records."""
    known: set[str] = set()
    own: set[tuple[str, str]] = set()
    broken: list[str] = []
    for one in events:
        known |= {one.id, one.command_id}
        if one.causation_id and one.causation_id not in known:
            broken.append(f"I7: {one.id} names the cause {one.causation_id}, which is not there")
        if isinstance(one.event, data_pb2.EventAppended):
            event = one.event
            if event.causation_id and (event.organisation_id, event.causation_id) not in own:
                broken.append(f"I7: event {event.event_id} names {event.causation_id}")
            own.add((event.organisation_id, event.event_id))
    return broken
