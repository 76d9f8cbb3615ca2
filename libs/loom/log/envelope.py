"""An event ↔ a Kafka record: the payload as value, its CloudEvents attributes packed in one header.

1. A record has two headers: the judge's stamp, made last because it names the digest before, and
   `ce`, an `Attributes` message (ADR 0022: a header for each attribute costs more than all else).
2. Stored bytes are deterministic, and digests are taken over stored bytes.
3. No attribute carries anything personal in clear: principals are ids.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from types import MappingProxyType
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from loom import catalogue
from loom.decider import Position, Recorded
from loom.log.judge import ATTRIBUTES, HEADER, Headers, Stamp, digest, filled
from loom.v1.common_pb2 import Attributes

__all__ = [
    "Draft",
    "Origin",
    "Sealed",
    "attributes_in",
    "cloudevent",
    "draft",
    "read",
    "seal",
    "stream_of",
    "token_of",
]

SIZE_BESIDE = 250
"""Bytes of a record beside key, value and attributes: stamp, names and lengths."""
NO_STORIES: Mapping[str, tuple[str, str]] = MappingProxyType({})
MARKER_TYPE = "epoch.claimed"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Origin(NamedTuple):
    """What all records of one command share."""

    source: str
    """`/loomos/<service>`"""
    shard: str
    actor: str
    command_id: str
    command_digest: bytes
    issued_at_us: int
    at_us: int
    correlation_id: str
    causation_id: str
    traceparent: str = ""
    context: tuple[tuple[str, str], ...] = ()
    """Further CloudEvents extensions, sorted by name: the decision's policies and their hash."""
    token: str = ""
    """`token_of` the command, where it is known already."""


class Draft(NamedTuple):
    """A record without its stamp."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    event: Message
    id: str
    stream: str
    version: int
    size: int
    """Bytes in the record batch, stamp included, counted generously."""


class Sealed(NamedTuple):
    """A record as it is stored."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    digest: bytes
    n: int
    size: int


def token_of(actor: str, command_id: str) -> str:
    """Names a command among all principals' commands; its events' ids begin with it."""
    return hashlib.sha256(f"{actor}\0{command_id}".encode()).hexdigest()[:32]


def draft(
    events: Sequence[Message],
    versions: Sequence[int],
    origin: Origin,
    stories: Mapping[str, tuple[str, str]] = NO_STORIES,
) -> list[Draft]:
    """The records of one command's events; `versions` are their streams' versions.

    `stories` names the correlation and causation id of streams whose events go on with a story
    that began before this command.
    """
    token = origin.token or token_of(origin.actor, origin.command_id)
    standing = standing_of(origin.source, origin.actor, origin.context)
    key = origin.shard.encode()
    drafts = []
    for index, (event, version) in enumerate(zip(events, versions, strict=True), start=1):
        field, type_name, schema_version = form_of(event.DESCRIPTOR)
        stream = str(getattr(event, field))
        event_id = f"{token}.{index}"
        correlation_id, causation_id = stories.get(
            stream, (origin.correlation_id, origin.causation_id)
        )
        own = Attributes(
            id=event_id,
            type=type_name,
            schema_version=schema_version,
            subject=stream,
            sequence=version,
            time_us=origin.at_us,
            commandid=origin.command_id,
            command_digest=origin.command_digest,
            issued_at_us=origin.issued_at_us,
            correlationid=correlation_id,
            causationid=causation_id,
            traceparent=origin.traceparent,
        )
        # Parts of a message, one after the other, are the message.
        attributes = standing + own.SerializeToString()
        value = event.SerializeToString(deterministic=True)
        size = SIZE_BESIDE + len(key) + len(attributes) + len(value)
        headers = ((ATTRIBUTES, attributes),)
        drafts.append(Draft(key, value, headers, event, event_id, stream, version, size))
    return drafts


@lru_cache(maxsize=4096)
def standing_of(source: str, actor: str, context: tuple[tuple[str, str], ...]) -> bytes:
    """The attributes that many commands share, packed."""
    shared = Attributes(source=source, authid=actor, extensions=dict(context))
    return shared.SerializeToString(deterministic=True)


@cache
def form_of(descriptor: Descriptor) -> tuple[str, str, int]:
    """What all events of a type share: the field that names the stream, type, schema version."""
    return (
        descriptor.fields[0].name,
        catalogue.type_of(descriptor),
        catalogue.version_of(descriptor),
    )


def stream_of(event: Message) -> str:
    """The stream that an event belongs to."""
    return str(getattr(event, form_of(event.DESCRIPTOR)[0]))


def seal(record: Draft, stamp: Stamp) -> Sealed:
    """The record with its stamp, and its digest."""
    headers = [(HEADER, stamp.pack()), *record.headers]
    mark = digest(record.key, headers, record.value)
    return Sealed(record.key, record.value, headers, mark, stamp.n, record.size)


def marker(stamp: Stamp, owner: str, at_us: int) -> Sealed:
    """A claim's epoch marker: no payload; who claims is said for people, never judged."""
    said = Attributes(id=stamp.claim.hex(), type=MARKER_TYPE, source=owner, time_us=at_us)
    headers = [(HEADER, stamp.pack()), (ATTRIBUTES, said.SerializeToString())]
    return Sealed(b"", b"", headers, digest(b"", headers, b""), 0, 0)


def attributes_in(headers: Headers) -> Attributes:
    """What a record's header says; raises catalogue.Undecodable."""
    for name, data in headers:
        if name == ATTRIBUTES:
            try:
                return Attributes.FromString(data or b"")
            except DecodeError as error:
                raise catalogue.Undecodable(f"the header {ATTRIBUTES}: {error}") from error
    raise catalogue.Undecodable(f"no header {ATTRIBUTES}")


def read(
    headers: Headers, value: bytes | None, shard: bytes | None, position: Position, epoch: int
) -> Recorded:
    """A valid event's record, decoded; raises catalogue.Undecodable."""
    try:
        said = attributes_in(headers)
        event = catalogue.decode(said.type, said.schema_version, value or b"")
        fields = (
            event, said.type, said.id, said.subject, said.sequence, (shard or b"").decode(),
            position, said.time_us, said.authid, said.commandid, said.correlationid,
            said.causationid, epoch, said.traceparent, said.command_digest, False,
        )  # fmt: skip
        return filled(Recorded, fields)
    except (catalogue.Undecodable, UnicodeDecodeError) as error:
        raise catalogue.Undecodable(f"offset {position.offset}: {error}") from error


def cloudevent(said: Attributes) -> dict[str, str]:
    """The attributes under their CloudEvents names, for outsiders; empty ones are left out."""
    kind, _, _ = said.authid.partition(":")
    found = {
        "specversion": "1.0",
        "id": said.id,
        "type": said.type,
        "source": said.source,
        "subject": said.subject,
        "sequence": str(said.sequence),
        "time": isoformat(said.time_us),
        "dataschema": f"urn:loomos:{said.type}:{said.schema_version}",
        "authtype": kind,
        "authid": said.authid,
        "commandid": said.commandid,
        "correlationid": said.correlationid,
        "causationid": said.causationid,
        "traceparent": said.traceparent,
    }
    found |= {name: said.extensions[name] for name in sorted(said.extensions)}
    return {name: text for name, text in found.items() if text}


def isoformat(at_us: int) -> str:
    """RFC 3339 with microseconds, UTC."""
    seconds, micros = divmod(at_us, 1_000_000)
    return f"{second(seconds)}.{micros:06d}Z"


@lru_cache(maxsize=64)
def second(seconds: int) -> str:
    """RFC 3339 to the second, without the zone."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
