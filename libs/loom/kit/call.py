"""What a door knows of one call, read from gRPC metadata and from nothing else.

1. Identity is never read here: it comes from the peer's certificate or a signed token only.
2. A key that may stand once and stands twice is refused, so that no two readers can differ.
3. The command id made for a caller who gave none is a UUIDv7: sorted by time.
"""

import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from loom.decider import Position
from loom.kit.errors import Failure, Violation, shown
from loom.log.clock import now_us
from loom.v1 import common_pb2

if TYPE_CHECKING:
    from loom.kit.authorize import Caller

__all__ = ["MOMENT", "Call", "Headers", "bearer_in", "headers", "metadata_of", "new_command_id"]

ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
MOMENT = re.compile(r"[A-Za-z0-9.:+-]{1,96}")
AHEAD_US_MAX = 5 * 60 * 1_000_000
POSITIONS_MAX = 64
BEARER_CHARACTERS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Call:
    """One call at a door: who asks, under which ids, and how long it may take."""

    caller: "Caller"
    command_id: str
    issued_at_us: int
    correlation_id: str
    causation_id: str
    traceparent: str
    after: tuple[Position, ...]
    deadline_s: float | None
    as_of: str = ""
    """The moment as of which a query is answered; empty means now."""


@dataclass(frozen=True, slots=True)
class Headers:
    """The call's metadata, checked; empty where the caller gave none."""

    command_id: str = ""
    issued_at_us: int = 0
    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""
    bearer: str = ""
    after: tuple[Position, ...] = ()
    as_of: str = ""


def new_command_id() -> str:
    """A UUIDv7: 48 bits of milliseconds, then chance."""
    milliseconds = time.time_ns() // 1_000_000
    low = secrets.randbits(74)
    value = (milliseconds << 80) | (7 << 76) | ((low >> 62) << 64) | (2 << 62) | (low & (2**62 - 1))
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def headers(metadata: Iterable[tuple[str, str | bytes]]) -> Headers:
    """The keys of a call that mean something here; raises Failure INVALID_ARGUMENT."""
    found: dict[str, str | bytes] = {}
    for key, value in metadata:
        if key not in KNOWN:
            continue
        if key in found:
            raise refused(key, "is given twice")
        found[key] = value

    def text(key: str) -> str:
        value = found.get(key, "")
        return value if isinstance(value, str) else value.decode("latin-1")

    return Headers(
        command_id=checked_id("command-id", text("command-id")),
        issued_at_us=issued(text("issued-at-us")),
        correlation_id=checked_id("correlation-id", text("correlation-id")),
        causation_id=checked_id("causation-id", text("causation-id")),
        traceparent=text("traceparent")[:64],
        bearer=bearer_in(text("authorization")),
        after=positions(found.get("after-bin", b"")),
        as_of=moment(text("as-of")),
    )


KNOWN = frozenset(
    (
        "command-id",
        "issued-at-us",
        "correlation-id",
        "causation-id",
        "authorization",
        "traceparent",
        "after-bin",
        "as-of",
    )
)


def checked_id(key: str, value: str) -> str:
    """The id, where it has the form that ids have."""
    if value and not ID.fullmatch(value):
        raise refused(key, f"is {shown(value)}: want 1 to 64 of A-Z a-z 0-9 . _ : -")
    return value


def moment(value: str) -> str:
    """A moment, where it has a form that moments can have; what it means is `kit.cut`'s to say."""
    if value and not MOMENT.fullmatch(value):
        raise refused("as-of", f"is {shown(value)}: want a time, a position or an event's id")
    return value


def issued(value: str) -> int:
    """The issue time, where it is one and not ahead of ours."""
    if not value:
        return 0
    if not re.fullmatch(r"[0-9]{1,17}", value):
        raise refused("issued-at-us", f"is {shown(value)}: want microseconds since 1970")
    if int(value) > now_us() + AHEAD_US_MAX:
        raise refused("issued-at-us", "is more than five minutes ahead: set the clock")
    return int(value)


def bearer_in(value: str) -> str:
    """The token of an authorization header."""
    if not value:
        return ""
    scheme, _, token = value.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", token):
        raise Failure("UNAUTHENTICATED", "authorization must be a bearer token")
    if len(token) > BEARER_CHARACTERS_MAX:
        raise Failure("UNAUTHENTICATED", f"a bearer token has {BEARER_CHARACTERS_MAX} characters")
    return token


def positions(data: str | bytes) -> tuple[Position, ...]:
    """Positions that the answer must have seen, sent as a Receipt that holds nothing else."""
    if not data:
        return ()
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "replace")
    try:
        found = common_pb2.Receipt.FromString(raw).positions
    except DecodeError as error:
        raise refused("after-bin", "is no serialized list of positions") from error
    if len(found) > POSITIONS_MAX:
        raise refused("after-bin", f"has {len(found)} positions: at most {POSITIONS_MAX}")
    return tuple(Position(one.topic, one.partition, one.offset, one.incarnation) for one in found)


def refused(key: str, why: str) -> Failure:
    """A metadata key that cannot be used."""
    return Failure(
        "INVALID_ARGUMENT", f"metadata {key} {why}", violations=[Violation(f"metadata.{key}", why)]
    )


def metadata_of(given: Headers) -> tuple[tuple[str, str | bytes], ...]:
    """The metadata that carries these headers."""
    pairs: list[tuple[str, str | bytes]] = [
        (key, value)
        for key, value in (
            ("command-id", given.command_id),
            ("issued-at-us", str(given.issued_at_us) if given.issued_at_us else ""),
            ("correlation-id", given.correlation_id),
            ("causation-id", given.causation_id),
            ("traceparent", given.traceparent),
            ("authorization", f"Bearer {given.bearer}" if given.bearer else ""),
            ("as-of", given.as_of),
        )
        if value
    ]
    if given.after:
        receipt = common_pb2.Receipt(
            positions=[
                common_pb2.Position(
                    topic=one.topic,
                    partition=one.partition,
                    offset=one.offset,
                    incarnation=one.incarnation,
                )
                for one in given.after
            ]
        )
        pairs.append(("after-bin", receipt.SerializeToString()))
    return tuple(pairs)
