"""An event ↔ a Kafka record: CloudEvents in binary mode, attributes as headers, payload as value.

1. The first header is the judge's stamp; it is made last, because it names the digest before.
2. Stored bytes are `SerializeToString(deterministic=True)`; digests are taken over stored bytes.
3. No header carries anything personal in clear: principals are ids.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from google.protobuf.message import Message

from loom.decider import Position, Recorded
from loom.log import catalogue
from loom.log.judge import HEADER, Headers, Stamp, digest

__all__ = ["Draft", "Origin", "Sealed", "draft", "read", "seal", "token_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SPEC = ("ce_specversion", b"1.0")
_PROTOBUF = ("content-type", b"application/protobuf")
MARKER_TYPE = b"epoch.claimed"


@dataclass(frozen=True, slots=True)
class Origin:
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


class Draft(NamedTuple):
    """A record without its stamp."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
    event: Message
    stream: str
    version: int
    id: str

    @property
    def size(self) -> int:
        """Bytes in the record batch, counted generously."""
        headers = sum(len(name) + len(data) + 8 for name, data in self.headers)
        return len(self.key) + len(self.value) + headers + 160


class Sealed(NamedTuple):
    """A record as it is stored."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    digest: bytes
    n: int


def token_of(actor: str, command_id: str) -> str:
    """Names a command among all principals' commands; its events' ids begin with it."""
    seed = hashlib.sha256(f"{actor}\0{command_id}".encode()).digest()
    return base64.b32encode(seed[:16]).decode().rstrip("=").lower()


def draft(events: Sequence[Message], versions: Sequence[int], origin: Origin) -> list[Draft]:
    """The records of one command's events; `versions` are their streams' versions."""
    token = token_of(origin.actor, origin.command_id)
    shared = [
        ("ce_time", isoformat(origin.at_us).encode()),
        ("ce_correlationid", origin.correlation_id.encode()),
        ("ce_causationid", origin.causation_id.encode()),
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
    drafts = []
    for index, (event, version) in enumerate(zip(events, versions, strict=True), start=1):
        descriptor = event.DESCRIPTOR
        stream = str(getattr(event, descriptor.fields[0].name))
        event_id = f"{token}.{index}"
        headers = (
            _SPEC,
            ("ce_id", event_id.encode()),
            ("ce_type", catalogue.type_of(descriptor).encode()),
            source,
            ("ce_subject", stream.encode()),
            ("ce_sequence", str(version).encode()),
            ("ce_dataschema", catalogue.schema_of(descriptor).encode()),
            *shared,
            _PROTOBUF,
        )
        value = event.SerializeToString(deterministic=True)
        drafts.append(Draft(key, value, headers, event, stream, version, event_id))
    return drafts


def seal(record: Draft, stamp: Stamp) -> Sealed:
    """The record with its stamp, and its digest."""
    headers = [(HEADER, stamp.pack()), *record.headers]
    return Sealed(
        record.key, record.value, headers, digest(record.key, headers, record.value), stamp.n
    )


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
    return Sealed(b"", b"", headers, digest(b"", headers, b""), 0)


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
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat(timespec="microseconds")


def parse_time(text: str) -> int:
    """The microseconds that `isoformat` wrote."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)
