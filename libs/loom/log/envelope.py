"""An event ↔ a Kafka record: CloudEvents in binary mode, attributes as headers, payload as value.

1. The first header is the judge's stamp; it is made last, because it names the digest before.
2. Stored bytes are `SerializeToString(deterministic=True)`; digests are taken over stored bytes.
3. No header carries anything personal in clear: principals are ids.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from loom.decider import Position, Recorded
from loom.log import catalogue
from loom.log.judge import HEADER, Headers, Stamp, digest

__all__ = ["Draft", "Origin", "Sealed", "draft", "read", "seal", "stream_of", "token_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SPEC = ("ce_specversion", b"1.0")
_PROTOBUF = ("content-type", b"application/protobuf")
SIZE_BESIDE = 250
"""Bytes of a record beside key, value and these headers: stamp, constant headers, lengths."""
NO_STORIES: Mapping[str, tuple[str, str]] = MappingProxyType({})
MARKER_TYPE = b"epoch.claimed"


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
    context: Mapping[str, str] | None = None
    """Further CloudEvents extensions: the decision's policy hash, audit and cost context."""
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
    shared = [
        ("ce_time", isoformat(origin.at_us).encode()),
        ("ce_authtype", origin.actor.partition(":")[0].encode()),
        ("ce_authid", origin.actor.encode()),
        ("ce_commandid", origin.command_id.encode()),
        ("ce_commanddigest", origin.command_digest),
        ("ce_issuedat", str(origin.issued_at_us).encode()),
    ]
    if origin.traceparent:
        shared.append(("traceparent", origin.traceparent.encode()))
    for name, text in sorted((origin.context or {}).items()):
        shared.append((f"ce_{name}", text.encode()))
    source = ("ce_source", origin.source.encode())
    key = origin.shard.encode()
    common_size = len(key) + SIZE_BESIDE + size_of(shared)
    drafts = []
    for index, (event, version) in enumerate(zip(events, versions, strict=True), start=1):
        field, kind, schema = form_of(event.DESCRIPTOR)
        stream = str(getattr(event, field))
        event_id = f"{token}.{index}"
        correlation_id, causation_id = stories.get(
            stream, (origin.correlation_id, origin.causation_id)
        )
        own = (
            ("ce_id", event_id.encode()),
            kind,
            source,
            ("ce_subject", stream.encode()),
            ("ce_sequence", str(version).encode()),
            schema,
            ("ce_correlationid", correlation_id.encode()),
            ("ce_causationid", causation_id.encode()),
        )
        value = event.SerializeToString(deterministic=True)
        size = common_size + size_of(own) + len(value)
        headers = (_SPEC, *own, *shared, _PROTOBUF)
        drafts.append(Draft(key, value, headers, event, event_id, stream, version, size))
    return drafts


def size_of(headers: Sequence[tuple[str, bytes]]) -> int:
    """Bytes that headers take in a record, counted generously."""
    return sum(map(len, chain.from_iterable(headers))) + 8 * len(headers)


@cache
def form_of(descriptor: Descriptor) -> tuple[str, tuple[str, bytes], tuple[str, bytes]]:
    """What all events of a type share: the field that names the stream, type, and schema."""
    return (
        descriptor.fields[0].name,
        ("ce_type", catalogue.type_of(descriptor).encode()),
        ("ce_dataschema", catalogue.schema_of(descriptor).encode()),
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
    headers = [
        (HEADER, stamp.pack()),
        _SPEC,
        ("ce_id", stamp.claim.hex().encode()),
        ("ce_type", MARKER_TYPE),
        ("ce_source", owner.encode()),
        ("ce_time", isoformat(at_us).encode()),
    ]
    return Sealed(b"", b"", headers, digest(b"", headers, b""), 0, 0)


def read(
    headers: Headers, value: bytes | None, shard: bytes | None, position: Position, epoch: int
) -> Recorded:
    """A valid event's record, decoded; raises catalogue.Undecodable."""
    found = dict(headers)
    try:
        type_name = found["ce_type"].decode()
        return Recorded(
            event=catalogue.decode(type_name, found["ce_dataschema"].decode(), value or b""),
            type=type_name,
            id=found["ce_id"].decode(),
            stream=found["ce_subject"].decode(),
            version=int(found["ce_sequence"]),
            shard=(shard or b"").decode(),
            position=position,
            at_us=parse_time(found["ce_time"].decode()),
            actor=found["ce_authid"].decode(),
            command_id=found["ce_commandid"].decode(),
            correlation_id=found["ce_correlationid"].decode(),
            causation_id=found["ce_causationid"].decode(),
            epoch=epoch,
            trace=found.get("traceparent", b"").decode(),
        )
    except (KeyError, ValueError, AttributeError) as error:
        raise catalogue.Undecodable(f"offset {position.offset}: {error!r}") from error


def isoformat(at_us: int) -> str:
    """RFC 3339 with microseconds, UTC."""
    seconds, micros = divmod(at_us, 1_000_000)
    return f"{second(seconds)}.{micros:06d}+00:00"


@lru_cache(maxsize=64)
def second(seconds: int) -> str:
    """RFC 3339 to the second, without the zone."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def parse_time(text: str) -> int:
    """The microseconds that `isoformat` wrote."""
    whole, dot, rest = text.partition(".")
    micros, zone = rest[:6], rest[6:]
    if dot and zone == "+00:00" and micros.isdecimal() and len(micros) == 6:
        return second_at(whole) + int(micros)
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


@lru_cache(maxsize=64)
def second_at(text: str) -> int:
    """The microseconds of a full second that `second` wrote."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is not None:
        raise ValueError(f"{text!r} has a zone before its fraction")
    return (at.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
