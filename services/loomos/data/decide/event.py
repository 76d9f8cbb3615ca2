"""Rules of appending: form, schema, time, cause, stream versions, and that an id counts once.

1. All events of a command are appended or none is; the first that may not be is named.
2. An id that the organisation has already, with the same content, adds nothing; with other content
   it is refused. What the state has forgotten is told by the read model, copied into the command.
"""

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from loom import declared, payload
from loom.decider import Code, Context, Rejected
from loom.v1 import data_pb2 as pb
from loomos.data.decide.version import chosen, latest, versions
from loomos.data.form import hold
from loomos.data.state import Schema, State, id_key

__all__ = [
    "Ahead",
    "append",
    "append_all",
    "append_token",
    "append_whole",
    "complete_all",
    "expect",
    "next_event",
]

AHEAD_US_MAX = 5 * 60 * 1_000_000
PLATFORM_ID = re.compile(r"[0-9a-f]{32}\.[0-9]{1,6}")


@dataclass(slots=True)
class Ahead:
    """What the earlier events of a command leave behind, and what its later ones will."""

    append_id: str
    """What all events of the command share, and nobody else's have."""
    old: Mapping[str, bytes]
    """Ids that the state has forgotten → digest."""
    known: dict[bytes, bytes] = field(default_factory=dict)
    later: set[str] = field(default_factory=set)
    """Ids of the command's events that have not had their turn."""
    schemas: dict[tuple[str, str], tuple[str, Schema]] = field(default_factory=dict)
    """Type and version as events name them → what they are held against."""


def append(
    command: pb.AppendEventRequest, state: State, context: Context
) -> list[pb.EventAppended]:
    """One event, or none where it is there already."""
    if command.HasField("expected_stream_version"):
        stream = command.event.stream or command.event.type
        expect(state, stream, command.expected_stream_version, "expected_stream_version")
    return append_all([command.event], command.old, ["event"], state, context)


def append_all(
    events: Sequence[pb.NewEvent],
    old: Iterable[pb.OldEvent],
    fields: Sequence[str],
    state: State,
    context: Context,
) -> list[pb.EventAppended]:
    """The events that are new, in their order; `fields` say where each stands in the request."""
    return append_whole(complete_all(events, fields, state, context), old, fields, state, context)


def complete_all(
    events: Sequence[pb.NewEvent], fields: Sequence[str], state: State, context: Context
) -> list[pb.NewEvent]:
    """The events as they are kept and compared."""
    return [
        completed(event, index, field, state, context)
        for index, (event, field) in enumerate(zip(events, fields, strict=True))
    ]


def append_whole(
    whole: Sequence[pb.NewEvent],
    old: Iterable[pb.OldEvent],
    fields: Sequence[str],
    state: State,
    context: Context,
) -> list[pb.EventAppended]:
    """What of completed events is new, in their order."""
    known = {one.event_id: one.digest for one in old}
    ahead = Ahead(append_token(context), known, later={event.event_id for event in whole})
    made = []
    for event, where in zip(whole, fields, strict=True):
        found = next_event(event, where, state, context, context.actor, ahead)
        if found is not None:
            made.append(found)
    return made


def expect(state: State, stream: str, version: int, field: str) -> None:
    """Refuse where a stream is not at the version that the caller saw."""
    found = state.streams.get(stream, 0)
    if found != version:
        raise Rejected(
            Code.ABORTED,
            f"stream {stream!r} is at version {found}, the command expected {version}: "
            "read it again and decide anew",
            field,
        )


def completed(
    event: pb.NewEvent, index: int, field: str, state: State, context: Context
) -> pb.NewEvent:
    """The event with an id and its payload in canonical form; raises Rejected for what is no form.

    Completing it again changes nothing, so an accepted batch keeps what its caller's ids are
    compared with.
    """
    if event.organisation_id not in ("", state.shard):
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"{field}.organisation_id is {event.organisation_id!r}, the command is for "
            f"{state.shard!r}: streams of two organisations lie in two partitions, and no append "
            "spans partitions: send one command for each organisation",
            f"{field}.organisation_id",
        )
    whole = pb.NewEvent()
    whole.CopyFrom(event)
    whole.ClearField("organisation_id")
    whole.event_id = event.event_id or context.new_id("event", index)
    whole.payload_json = content_of(event, field)
    whole.ClearField("payload")
    del whole.personal_paths[:]
    whole.personal_paths.extend(personal_places(event, whole.payload_json, field, state))
    return whole


def personal_places(event: pb.NewEvent, content: str, field: str, state: State) -> list[str]:
    """What of the content the schema and the caller mark; raises Rejected where nobody owns it."""
    known = versions(state, event.type)
    schema = known.get(event.schema_version or latest(state, event.type, known))
    declared = pointers(schema.text) if schema is not None else ()
    there = {"", "*", *json.loads(content)} if declared else set()
    marked = [one for one in declared if one.partition("/")[2].partition("/")[0] in there]
    if marked and not event.data_subject:
        name = f"{field}.data_subject"
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"{name} is missing: the schema of {event.type} marks {', '.join(marked[:5]) or 'all'} "
            "as personal, so say by a pseudonym whose it is",
            name,
        )
    return sorted({*marked, *event.personal_paths})


@lru_cache(maxsize=1024)
def pointers(schema: str) -> tuple[str, ...]:
    """The personal places that a schema's text declares."""
    return declared.pointers(json.loads(schema)) if declared.KEYWORD in schema else ()


def content_of(event: pb.NewEvent, field: str) -> str:
    """The payload as canonical JSON."""
    given = f"{field}.payload"
    if event.HasField("payload"):
        if event.payload_json:
            told = f"{given} and payload_json are both given: send one of them"
            raise Rejected(Code.INVALID_ARGUMENT, told, given)
        text = payload.canonical(payload.plain(event.payload, given), given)
    else:
        given = f"{field}.payload_json"
        text = payload.normal(event.payload_json or "{}", given)
        if not text.startswith(b"{"):
            raise Rejected(Code.INVALID_ARGUMENT, f"{given} is no JSON object", given)
    if len(text) > payload.BYTES_MAX:
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"{given} takes {len(text)} bytes, at most {payload.BYTES_MAX} are allowed: "
            "store what is large elsewhere and append its address and digest",
            given,
        )
    return text.decode()


def next_event(
    event: pb.NewEvent,
    field: str,
    state: State,
    context: Context,
    appended_by: str,
    ahead: Ahead,
    held: bool = False,
) -> pb.EventAppended | None:
    """What a completed event becomes after those before it; None where it is there already.

    `held` says that its payload was held against its schema before it was sealed.
    """
    digest = event.digest or hashlib.sha256(event.SerializeToString(deterministic=True)).digest()
    digest = digest[:16]
    ahead.later.discard(event.event_id)
    key = id_key(event.event_id)
    found = state.known.get(key)
    before = found.digest if found else ahead.known.get(key) or ahead.old.get(event.event_id)
    if before is not None:
        if before == digest:
            return None
        raise Rejected(
            Code.ALREADY_EXISTS,
            f"{field}.event_id {event.event_id!r} was used with other content: take a new id",
            f"{field}.event_id",
        )
    check_time(event, field, context)
    check_cause(event, field, state, ahead)
    check_context(event, field, state)
    made = appended(event, field, state, context, appended_by, ahead, held)
    made.digest = digest
    ahead.known[key] = digest
    return made


def appended(
    event: pb.NewEvent,
    field: str,
    state: State,
    context: Context,
    appended_by: str,
    ahead: Ahead,
    held: bool,
) -> pb.EventAppended:
    """The event of the log, once its payload is as its schema says."""
    named = event.type, event.schema_version
    found = ahead.schemas.get(named)
    if found is None:
        found = ahead.schemas[named] = chosen(state, *named, field)
    version, schema = found
    if not held:
        hold(json.loads(event.payload_json), schema, f"{event.type}@{version}", f"{field}.payload")
    made = pb.EventAppended(
        stream_id=f"{state.shard}/{event.stream or event.type}",
        organisation_id=state.shard,
        event_id=event.event_id,
        event_type=event.type,
        schema_version=version,
        schema_digest=schema.digest[:16],
        payload=event.payload_json.encode(),
        data_subject=event.data_subject,
        sealed_paths=event.personal_paths,
        occurred_at_us=event.occurred_at_us or context.at_us,
        correlation_id=event.correlation_id,
        causation_id=event.causation_id,
        append_id=ahead.append_id,
        appended_by="" if appended_by == context.actor else appended_by,
        appended_at_us=context.at_us,
    )
    for name in ("context", "security", "metadata"):
        if event.HasField(name):
            getattr(made, name).CopyFrom(getattr(event, name))
    return made


def append_token(context: Context) -> str:
    """What all events of a command share, and nobody else's have."""
    return context.new_id("append").rpartition("-")[2]


def check_time(event: pb.NewEvent, field: str, context: Context) -> None:
    """What happens later than now, beyond clocks' differences, has not happened."""
    if event.occurred_at_us > context.at_us + AHEAD_US_MAX:
        ahead_s = (event.occurred_at_us - context.at_us) // 1_000_000
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"{field}.occurred_at_us {event.occurred_at_us} is {ahead_s} s ahead of the platform's "
            "clock, at most 300 s are allowed: microseconds since 1970 are wanted",
            f"{field}.occurred_at_us",
        )


def check_cause(event: pb.NewEvent, field: str, state: State, ahead: Ahead) -> None:
    """A cause comes before what it causes."""
    cause, name = event.causation_id, f"{field}.causation_id"
    if not cause:
        return
    if cause == event.event_id:
        raise Rejected(Code.INVALID_ARGUMENT, f"{name} {cause!r} is the event itself", name)
    key = id_key(cause)
    if key in state.known or key in ahead.known or cause in ahead.old:
        return
    if PLATFORM_ID.fullmatch(cause):
        return
    if cause in ahead.later:
        told = f"{name} {cause!r} stands later in the batch: a cause comes before its effect"
        raise Rejected(Code.INVALID_ARGUMENT, told, name)
    raise Rejected(
        Code.FAILED_PRECONDITION,
        f"{name} {cause!r} is no event of the organisation yet: append it first",
        name,
    )


def check_context(event: pb.NewEvent, field: str, state: State) -> None:
    """Addresses are addresses, and a project's id is not another organisation's."""
    address, project = event.context.source_ip, event.context.project_id
    if address:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            name = f"{field}.context.source_ip"
            raise Rejected(Code.INVALID_ARGUMENT, f"{name}: {error}", name) from error
    if "." in project and project.partition(".")[0] != state.shard:
        name = f"{field}.context.project_id"
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"{name} {project!r} is no project of {state.shard!r}: a name of your own has no dot",
            name,
        )
