"""One kind of failure at every door, and its two faces: a gRPC status and a problem+json body.

1. A failure says what was wrong, with which value, and what to do; a stack trace never leaves.
2. What was not foreseen becomes INTERNAL with the correlation id; the door logs the cause.
3. Everything that travels is cut to fit into HTTP/2 trailers (gRPC drops what is longer).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from protovalidate import ValidationError
from protovalidate import Violation as RuleViolation

from loom.decider import Rejected

__all__ = [
    "HTTP_STATUS",
    "TRAVELLING",
    "WRONG_OWNER",
    "Failure",
    "Violation",
    "broken_rules",
    "failure_of",
    "from_rpc",
    "made_by_peer",
    "problem",
    "shown",
    "status_of",
    "trailers_of",
]

WRONG_OWNER = "WRONG_OWNER"
"""ErrorInfo reason of a refusal by an instance that does not own the shard; carries `address`."""

TRAVELLING = "TRAVELLING"
"""ErrorInfo reason while tables of a moment are being made; carries `done` and `of`, in events."""

DOMAIN = "loomos"
DETAILS = "grpc-status-details-bin"
MESSAGE_CHARACTERS_MAX = 1000
VIOLATIONS_MAX = 16
VALUE_CHARACTERS_MAX = 64

HTTP_STATUS = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 409,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
"""HTTP status of each gRPC status name."""

TITLES = {
    400: "The request is not valid",
    401: "Who are you?",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    409: "In conflict with the present state",
    413: "The request is too large",
    415: "Unsupported media type",
    429: "Too much asked",
    499: "Cancelled by the caller",
    500: "Internal error",
    501: "Not offered",
    503: "Not available now",
    504: "Took too long",
}

CHANNEL_WORDS = {
    "UNAVAILABLE": "the service does not answer now: retry with the same command id",
    "DEADLINE_EXCEEDED": "no answer in time; the outcome is unknown: "
    "retry with the same command id",
    "RESOURCE_EXHAUSTED": "the message is larger than 4 MiB",
    "UNIMPLEMENTED": "the service does not offer this call",
    "CANCELLED": "the call was cancelled",
}
"""What callers are told of a failure that no service of ours answered with."""


class Violation(NamedTuple):
    """One thing that is wrong with one field of a request."""

    field: str
    """The field's path, e.g. `resources.cpu_milli`."""
    description: str
    rule: str = ""
    """Which rule it breaks, e.g. `int64.gte`."""


class Failure(Exception):
    """A call that did not succeed; `code` is a gRPC status name."""

    def __init__(
        self,
        code: str,
        message: str,
        field: str = "",
        *,
        violations: Sequence[Violation] = (),
        reason: str = "",
        details: Mapping[str, str] | None = None,
        http_status: int = 0,
    ) -> None:
        super().__init__(message)
        self.code = code if code in HTTP_STATUS else "UNKNOWN"
        self.message = cut(message, MESSAGE_CHARACTERS_MAX)
        self.field = field or (violations[0].field if violations else "")
        self.violations = tuple(violations) or ((Violation(field, message),) if field else ())
        self.reason = reason
        self.details = dict(details or {})
        self.http_status = http_status or HTTP_STATUS[self.code]


def failure_of(error: BaseException, correlation_id: str = "") -> Failure:
    """What a caller is told about an error; what was not foreseen says nothing but INTERNAL."""
    match error:
        case Failure():
            return error
        case Rejected():
            return Failure(error.code, error.message, error.field)
        case ValidationError():
            return broken_rules(error.violations)
        case DecodeError():
            return Failure("INVALID_ARGUMENT", "the request is not a message of the named type")
        case TimeoutError():
            return Failure(
                "DEADLINE_EXCEEDED",
                "the call took longer than its deadline; its outcome is unknown: "
                "retry with the same command id",
            )
        case asyncio.CancelledError():
            return Failure("CANCELLED", "the call was cancelled")
        case _:
            return Failure(
                "INTERNAL",
                f"internal error; an operator finds it in the log by {correlation_id or 'time'}",
                reason="INTERNAL",
            )


def broken_rules(
    violations: Sequence[RuleViolation], descriptor: Descriptor | None = None
) -> Failure:
    """Each violation of the contract's rules: field, rule, and the value unless it is secret."""
    named = [
        Violation(
            path_of(violation.proto.field),
            "is missing: say which"
            if violation.proto.rule_id == "enum.not_in" and violation.field_value == 0
            else (violation.proto.message or f"breaks the rule {violation.proto.rule_id}")
            + given(violation.field_value, violation.proto.field, descriptor),
            violation.proto.rule_id,
        )
        for violation in violations
    ]
    told = "; ".join(f"{one.field or 'request'}: {one.description}" for one in named[:3])
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    return Failure("INVALID_ARGUMENT", told + more, named[0].field, violations=named)


def given(value: object, path: Any, descriptor: Descriptor | None) -> str:
    """The value as a message ends with it: numbers always, text where its field is known open."""
    match value:
        case bool() | int() | float():
            return f" (given: {value})"
        case str() if descriptor is not None and not secret(path, descriptor):
            return f" (given: {shown(value)})"
        case _:
            return ""


def secret(path: Any, descriptor: Descriptor) -> bool:
    """True where a field on the path is marked `debug_redact`, or is not in the contract."""
    at: Descriptor | None = descriptor
    for element in path.elements:
        field = at.fields_by_name.get(element.field_name) if at is not None else None
        if field is None or field.GetOptions().debug_redact:
            return True
        at = field.message_type
        if at is not None and at.GetOptions().map_entry:
            at = at.fields_by_name["value"].message_type
    return False


def path_of(path: Any) -> str:
    """A field path as people write it: `labels["team"]`, `tasks[2].name`."""
    parts: list[str] = []
    for element in path.elements if path is not None else ():
        name = element.field_name
        subscript = element.subscript
        if subscript is not None:
            key = subscript.value
            name += f'["{cut(key, 32)}"]' if isinstance(key, str) else f"[{key}]"
        parts.append(name)
    return ".".join(parts)


def cut(text: str, most: int) -> str:
    """The text, or its beginning where it is longer."""
    return text if len(text) <= most else text[: most - 1] + "…"


def shown(value: object) -> str:
    """A value as an error message shows it: quoted, short, without control characters."""
    return cut(repr(value), VALUE_CHARACTERS_MAX)


def status_of(failure: Failure) -> status_pb2.Status:
    """The failure as google.rpc.Status, with field violations and reason as details."""
    status = status_pb2.Status(
        code=number_of(failure.code), message=cut(failure.message, MESSAGE_CHARACTERS_MAX)
    )
    if failure.violations:
        bad = error_details_pb2.BadRequest()
        for one in failure.violations[:VIOLATIONS_MAX]:
            bad.field_violations.add(
                field=cut(one.field, 128), description=cut(one.description, 200), reason=one.rule
            )
        status.details.add().Pack(bad)
    if failure.reason or failure.details:
        status.details.add().Pack(
            error_details_pb2.ErrorInfo(
                reason=failure.reason, domain=DOMAIN, metadata=failure.details
            )
        )
    return status


def number_of(code: str) -> int:
    """The number of a gRPC status name."""
    return grpc.StatusCode[code].value[0]


def trailers_of(failure: Failure) -> tuple[tuple[str, str | bytes], ...]:
    """The trailing metadata that carries a failure's details."""
    return ((DETAILS, status_of(failure).SerializeToString()),)


def from_rpc(error: grpc.aio.AioRpcError) -> Failure:
    """The failure that a peer answered with, or that the channel made up."""
    message = error.details() or "the peer gave no reason"
    if not made_by_peer(error):
        # What the channel says names addresses inside; the cause keeps it for our own log.
        message = CHANNEL_WORDS.get(error.code().name, "the call failed on its way")
    violations: list[Violation] = []
    reason, details = "", {}
    for key, value in error.trailing_metadata() or ():
        if key != DETAILS:
            continue
        try:
            status = status_pb2.Status.FromString(value)  # type: ignore[arg-type]
        except DecodeError:
            continue
        for detail in status.details:
            bad, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
            if detail.Unpack(bad):
                violations = [
                    Violation(one.field, one.description, one.reason)
                    for one in bad.field_violations
                ]
            elif detail.Unpack(info):
                reason, details = info.reason, dict(info.metadata)
    return Failure(
        error.code().name,
        message,
        violations[0].field if violations else "",
        violations=violations,
        reason=reason,
        details=details,
    )


def made_by_peer(error: grpc.aio.AioRpcError) -> bool:
    """True where a service of ours answered so, false where the channel made the status up."""
    return any(key == DETAILS for key, _ in error.trailing_metadata() or ())


def problem(failure: Failure, correlation_id: str) -> dict[str, Any]:
    """The failure as an RFC 9457 problem document."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": TITLES.get(failure.http_status, "The call failed"),
        "status": failure.http_status,
        "detail": failure.message,
        "code": failure.code,
        "correlation_id": correlation_id,
    }
    if failure.violations:
        body["field"] = failure.violations[0].field
        body["fields"] = [
            {"field": one.field, "description": one.description, "rule": one.rule}
            for one in failure.violations
        ]
    if failure.reason:
        body["reason"] = failure.reason
    return body
