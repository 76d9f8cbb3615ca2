"""The client's schemas."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loomos.client.addresses import segment
from loomos.client.event import Schema
from loomos.client.gateway import Door

__all__ = ["deprecate_schema", "get_schema", "list_schemas", "register_schema"]

PAGE = 200


def register_schema(
    door: Door,
    organisation: str,
    event_type: str,
    version: str,
    schema: Mapping[str, Any],
    compatibility: str,
    upcast: Sequence[Mapping[str, Any]],
) -> None:
    """Register a version."""
    body: dict[str, Any] = {"version": version, "schema_json": json.dumps(schema)}
    if compatibility:
        body["compatibility"] = "COMPATIBILITY_" + compatibility.upper().replace("-", "_")
    if upcast:
        body["upcast"] = [step_of(one) for one in upcast]
    door.call("POST", versions(organisation, event_type), body)


def step_of(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step of an upcaster as the gateway takes it."""
    told = {"action": f"UPCAST_ACTION_{step['action'].upper()}", "path": step["path"]}
    if "to" in step:
        told["to"] = step["to"]
    if "value" in step:
        told["value_json"] = json.dumps(step["value"])
    return told


def deprecate_schema(
    door: Door, organisation: str, event_type: str, version: str, reason: str
) -> None:
    """Deprecate a version."""
    path = f"{versions(organisation, event_type)}/{segment(version)}:deprecate"
    door.call("POST", path, {"reason": reason})


def get_schema(door: Door, organisation: str, event_type: str, version: str) -> Schema:
    """One version."""
    path = f"{versions(organisation, event_type)}/{segment(version)}"
    return schema_of(door.call("GET", path))


def list_schemas(door: Door, organisation: str, prefix: str) -> Iterator[Schema]:
    """All versions whose type begins so."""
    path = f"/api/v1/organisations/{organisation}/schemas"
    return map(schema_of, door.pages(path, "schemas", {"type_prefix": prefix, "limit": PAGE}))


def versions(organisation: str, event_type: str) -> str:
    """Where a type's versions are."""
    return f"/api/v1/organisations/{organisation}/schemas/{segment(event_type)}/versions"


def schema_of(answer: Mapping[str, Any]) -> Schema:
    """A version as it is answered."""
    return Schema(
        event_type=answer["event_type"],
        version=answer["version"],
        schema=json.loads(answer["schema_json"]),
        deprecated=answer["deprecated"],
        builtin=answer["builtin"],
    )
