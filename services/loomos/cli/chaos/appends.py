"""What appenders send: users' events of two organisations, versions expected, duplicates, refusals.

1. Which commands come is the seed's choice; an event's content follows from its id, so an id that
   is sent again brings the same content unless it means to be refused.
"""

import json
import random
from collections.abc import Sequence

from google.protobuf.message import Message

from loom.v1 import common_pb2
from loom.v1 import data_pb2 as pb

__all__ = ["KIND", "ORGANISATIONS", "SCHEMA", "Appends", "events_in", "sample"]

ORGANISATIONS = ("acme", "other")
KIND = "chaos.sample.taken"
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"said": {"type": "string", "maxLength": 4096}},
        "required": ["said"],
        "additionalProperties": False,
    }
)
STREAMS = 24
BATCH_MAX = 20
KNOWN_MAX = 5_000


def sample(event_id: str, stream: str, cause: str = "", said: str = "") -> pb.NewEvent:
    """An event whose content follows from its id."""
    content = json.dumps({"said": said or event_id * 4})
    return pb.NewEvent(
        event_id=event_id, type=KIND, stream=stream, payload_json=content, causation_id=cause
    )


def events_in(request: Message) -> Sequence[pb.NewEvent]:
    """The events that a command brings."""
    match request:
        case pb.AppendEventRequest():
            return [request.event]
        case pb.AppendEventsRequest() | pb.SubmitBatchRequest():
            return request.events
        case _:
            return ()


class Appends:
    """The script of all appenders."""

    def __init__(self) -> None:
        self.known: dict[str, list[pb.NewEvent]] = {name: [] for name in ORGANISATIONS}
        """Events that were acknowledged, the latest of them."""
        self.versions: dict[tuple[str, str], int] = {}
        self.seen: set[str] = set()

    def heard(self, request: Message, receipt: common_pb2.Receipt) -> None:
        """Remember what may be caused, repeated and expected from now on."""
        organisation = getattr(request, "organisation_id", "")
        for event in events_in(request):
            if event.event_id in self.seen:
                continue
            self.seen.add(event.event_id)
            if isinstance(request, pb.AppendEventRequest):
                self.versions[(organisation, event.stream)] = receipt.version
            if not isinstance(request, pb.SubmitBatchRequest):
                known = self.known[organisation]
                known.append(event)
                del known[:-KNOWN_MAX]

    def request(self, chance: random.Random, command_id: str) -> Message:
        """The next command."""
        organisation = chance.choice(ORGANISATIONS)
        stream = f"s-{chance.randrange(STREAMS)}"
        known = self.known[organisation]
        old = chance.choice(known) if known else None
        kind = chance.random()
        one = pb.AppendEventRequest(organisation_id=organisation)
        if kind < 0.10 and old is not None:
            one.event.CopyFrom(old)
        elif kind < 0.11 and old is not None:
            one.event.CopyFrom(sample(old.event_id, old.stream, said="something else"))
        elif kind < 0.12:
            one.event.CopyFrom(sample(f"e-{command_id}", stream))
            one.event.type = "chaos.unknown.type"
        elif kind < 0.22:
            several = [
                sample(f"e-{command_id}-{index}", f"s-{chance.randrange(STREAMS)}")
                for index in range(chance.randint(2, BATCH_MAX))
            ]
            if kind < 0.14:
                return pb.SubmitBatchRequest(
                    organisation_id=organisation, events=several, max_wait_ms=chance.randrange(200)
                )
            return pb.AppendEventsRequest(organisation_id=organisation, events=several)
        else:
            cause = old.event_id if old is not None and kind < 0.6 else ""
            one.event.CopyFrom(sample(f"e-{command_id}", stream, cause))
            if kind > 0.97:
                one.expected_stream_version = self.versions.get((organisation, stream), 0)
        return one
