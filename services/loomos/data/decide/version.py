"""Which schema an event is held against: the organisation's own or a built-in one."""

from loom.decider import Code, Rejected
from loomos.data.catalogue import builtin
from loomos.data.state import Schema, State, order

__all__ = ["chosen", "latest", "versions"]


def versions(state: State, event_type: str) -> dict[str, Schema]:
    """All versions of a type that the organisation may name, oldest first."""
    own = state.schemas.get(event_type)
    if own is None:
        return builtin(event_type)
    both = {**builtin(event_type), **own}
    return dict(sorted(both.items(), key=lambda one: order(one[0])))


def is_deprecated(state: State, event_type: str, version: str, schema: Schema) -> bool:
    """True where no new events are taken by it."""
    if not state.deprecated:
        return schema.deprecated
    return schema.deprecated or f"{event_type}@{version}" in state.deprecated


def latest(state: State, event_type: str, known: dict[str, Schema]) -> str:
    """The newest of these versions that takes events, or ""."""
    usable = (v for v in reversed(known) if not is_deprecated(state, event_type, v, known[v]))
    return next(usable, "")


def chosen(state: State, event_type: str, version: str, field: str) -> tuple[str, Schema]:
    """The schema that an event names, else the newest; raises Rejected where there is none."""
    known = versions(state, event_type)
    if not known:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"{field}.type {event_type!r} has no schema: register one first "
            f"(loomos events schemas register {event_type} 1.0.0 FILE)",
            f"{field}.type",
        )
    wanted = version or latest(state, event_type, known)
    schema = known.get(wanted)
    if schema is None:
        told = f"is {version!r}" if version else "is not given, and all are deprecated"
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"{field}.schema_version {told}: {event_type} has {', '.join(known)}",
            f"{field}.schema_version",
        )
    if is_deprecated(state, event_type, wanted, schema):
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"{field}.schema_version {wanted} of {event_type} is deprecated: "
            f"use {latest(state, event_type, known) or 'a version that you register'}",
            f"{field}.schema_version",
        )
    return wanted, schema
