"""Rules of schemas: what may be registered, what it must be compatible with, what is deprecated."""

import hashlib
import json

from google.protobuf.message import Message

from loom import catalogue, payload
from loom.decider import Code, Context, Rejected
from loom.v1 import data_pb2 as pb
from loomos.data.bounds import admit
from loomos.data.catalogue import builtin
from loomos.data.compatible import lifted, unreadable
from loomos.data.decide.version import versions
from loomos.data.state import Schema, State, order

__all__ = ["deprecate", "register"]

TYPES_MAX = 1000
VERSIONS_MAX = 100
SCHEMA_BYTES_MAX = 64 * 1024
DEFAULT_MODE = pb.COMPATIBILITY_BACKWARD_TRANSITIVE
BACKWARD = (pb.COMPATIBILITY_BACKWARD, pb.COMPATIBILITY_BACKWARD_TRANSITIVE)
FORWARD = (pb.COMPATIBILITY_FORWARD, pb.COMPATIBILITY_FORWARD_TRANSITIVE)
FULL = (pb.COMPATIBILITY_FULL, pb.COMPATIBILITY_FULL_TRANSITIVE)
TRANSITIVE = (
    pb.COMPATIBILITY_BACKWARD_TRANSITIVE,
    pb.COMPATIBILITY_FORWARD_TRANSITIVE,
    pb.COMPATIBILITY_FULL_TRANSITIVE,
)


def register(command: pb.RegisterSchemaRequest, state: State, context: Context) -> list[Message]:
    """A new version; the same one again changes nothing."""
    if command.event_type in catalogue.events() and not builtin(command.event_type):
        told = f"{command.event_type} is an event of the platform's own: take another type"
        raise Rejected(Code.INVALID_ARGUMENT, told, "event_type")
    text = text_of(command)
    digest = hashlib.sha256(text.encode()).digest()
    known = versions(state, command.event_type)
    steps = tuple(command.upcast)
    same = known.get(command.version)
    if same is not None:
        if same.digest == digest and same.upcast == steps:
            return []
        raise Rejected(
            Code.ALREADY_EXISTS,
            f"version {command.version} of {command.event_type} stands with other content: "
            "a version never changes, register a higher one",
            "version",
        )
    check_room(command, state, known)
    check_steps(command, known)
    mode = command.compatibility or state.compatibility.get(command.event_type) or DEFAULT_MODE
    check_compatible(command, json.loads(text), known, mode)
    events: list[Message] = [
        pb.SchemaRegistered(
            schema_id=f"{state.shard}/schemas/{command.event_type}",
            organisation_id=state.shard,
            event_type=command.event_type,
            schema_version=command.version,
            schema_json=text,
            digest=digest,
            compatibility=mode,
            upcast=steps,
            at_us=context.at_us,
        )
    ]
    return events


def text_of(command: pb.RegisterSchemaRequest) -> str:
    """The schema's canonical text, once it is admitted."""
    if command.HasField("schema") == bool(command.schema_json):
        raise Rejected(Code.INVALID_ARGUMENT, "send schema or schema_json, one of them", "schema")
    if command.HasField("schema"):
        content = payload.plain(command.schema, "schema")
    else:
        content = payload.parsed(command.schema_json, "schema_json")
    text = payload.canonical(content, "schema")
    if len(text) > SCHEMA_BYTES_MAX:
        told = f"the schema takes {len(text)} bytes, at most {SCHEMA_BYTES_MAX} are allowed"
        raise Rejected(Code.INVALID_ARGUMENT, told, "schema")
    admit(json.loads(text), text.decode())
    return text.decode()


def check_room(command: pb.RegisterSchemaRequest, state: State, known: dict[str, Schema]) -> None:
    """Versions only go up, and neither they nor the types are without number."""
    if known and order(command.version) < order(last := list(known)[-1]):
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"version {command.version} of {command.event_type} is below {last}, the newest: "
            "versions only go up",
            "version",
        )
    if len(known) >= VERSIONS_MAX:
        told = f"{command.event_type} has {len(known)} versions, at most {VERSIONS_MAX} are kept"
        raise Rejected(Code.RESOURCE_EXHAUSTED, told, "version")
    if command.event_type not in state.schemas and len(state.schemas) >= TYPES_MAX:
        told = f"{state.shard} has {TYPES_MAX} types of its own, the most that it may have"
        raise Rejected(Code.RESOURCE_EXHAUSTED, told, "event_type")


def check_steps(command: pb.RegisterSchemaRequest, known: dict[str, Schema]) -> None:
    """An upcaster begins where a version stands, and each step says what it needs."""
    if command.upcast and not known:
        told = f"{command.event_type} has no earlier version: there is nothing to bring up"
        raise Rejected(Code.INVALID_ARGUMENT, told, "upcast")
    for index, step in enumerate(command.upcast):
        name = f"upcast[{index}]"
        if step.action == pb.UPCAST_ACTION_DEFAULT:
            payload.canonical(payload.parsed(step.value_json, f"{name}.value_json"), name)
        elif step.action != pb.UPCAST_ACTION_DROP and not step.to:
            raise Rejected(Code.INVALID_ARGUMENT, f"{name}.to is missing", f"{name}.to")
        if step.action == pb.UPCAST_ACTION_RENAME and "." in step.to:
            told = f"{name}.to {step.to!r} is a place: a rename takes a name, a move a place"
            raise Rejected(Code.INVALID_ARGUMENT, told, f"{name}.to")
        if step.action == pb.UPCAST_ACTION_MOVE and f"{step.to}.".startswith(f"{step.path}."):
            told = f"{name}.to {step.to!r} lies in {step.path!r} itself"
            raise Rejected(Code.INVALID_ARGUMENT, told, f"{name}.to")


def check_compatible(
    command: pb.RegisterSchemaRequest,
    schema: object,
    known: dict[str, Schema],
    mode: pb.Compatibility,
) -> None:
    """What the mode asks for holds, or the path that breaks it is named."""
    if mode == pb.COMPATIBILITY_NONE or not known:
        return
    names = list(known)
    others = names if mode in TRANSITIVE else names[-1:]
    for version in others:
        other: object = json.loads(known[version].text)
        if mode in (*BACKWARD, *FULL):
            # What was written by the old version is read after it was brought up.
            raised = other
            for later in names[names.index(version) + 1 :]:
                raised = lifted(raised, known[later].upcast)
            broken = unreadable(schema, lifted(raised, command.upcast))
            refuse(command, version, mode, broken, "does not read what it wrote")
        if mode in (*FORWARD, *FULL):
            refuse(command, version, mode, unreadable(other, schema), "cannot read this")


def refuse(
    command: pb.RegisterSchemaRequest,
    version: str,
    mode: pb.Compatibility,
    broken: list[str],
    told: str,
) -> None:
    """Raise Rejected where something is broken."""
    if not broken:
        return
    name = pb.Compatibility.Name(mode).removeprefix("COMPATIBILITY_")
    subject = f"{command.version} {told}" if "does" in told else f"{version} {told}"
    raise Rejected(
        Code.FAILED_PRECONDITION,
        f"{command.event_type} must be {name} with {version}, but {subject}: "
        f"{'; '.join(broken[:5])}. Change it, add an upcaster, or say another compatibility",
        "schema",
    )


def deprecate(command: pb.DeprecateSchemaRequest, state: State) -> list[Message]:
    """No new events by a version; once more changes nothing."""
    schema = versions(state, command.event_type).get(command.version)
    if schema is None:
        told = f"no version {command.version} of {command.event_type!r}"
        raise Rejected(Code.NOT_FOUND, told, "version")
    if schema.deprecated or f"{command.event_type}@{command.version}" in state.deprecated:
        return []
    return [
        pb.SchemaDeprecated(
            schema_id=f"{state.shard}/schemas/{command.event_type}",
            organisation_id=state.shard,
            event_type=command.event_type,
            schema_version=command.version,
            reason=command.reason,
        )
    ]
