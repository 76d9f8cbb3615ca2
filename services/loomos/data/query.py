"""Answers questions about schemas and batches; foreign ids are answered like unknown ones."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loom.decider import Code, Rejected, Resource
from loom.kit.caller import Caller
from loom.store import Connection
from loom.v1 import data_pb2 as pb
from loomos.data.catalogue import types
from loomos.data.state import Schema, order

__all__ = ["batch_of", "get_batch", "get_schema", "list_schemas", "places"]

PAGE = 100


def admit(caller: Caller, action: str, organisation_id: str) -> None:
    """Raise Rejected where the caller may not ask about the organisation."""
    if not caller.may(action, Resource("organisation", organisation_id)).allowed:
        told = f"no organisation {organisation_id!r}"
        raise Rejected(Code.NOT_FOUND, told, "organisation_id")


async def get_batch(request: pb.GetBatchRequest, caller: Caller, db: Connection) -> pb.EventBatch:
    """How far a batch is."""
    admit(caller, "GetBatch", request.organisation_id)
    found = await batch_of(request.organisation_id, request.batch_id, db)
    if found is None:
        raise Rejected(Code.NOT_FOUND, f"no batch {request.batch_id!r}", "batch_id")
    return found


async def batch_of(organisation_id: str, batch_id: str, db: Connection) -> pb.EventBatch | None:
    """A batch as the read model has it."""
    cursor = await db.execute(
        "SELECT * FROM batches WHERE organisation_id = %s AND batch_id = %s",
        (organisation_id, batch_id),
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    until_us = row["finished_at_us"] or time.time_ns() // 1000
    return pb.EventBatch(
        batch_id=row["batch_id"],
        events=row["events"],
        pending=row["events"] - row["done"],
        events_processed=row["events_processed"],
        duplicates=row["duplicates"],
        refused=[pb.BatchRefusal(**one) for one in row["refused"]],
        processing_time_ms=max(0, until_us - row["accepted_at_us"]) // 1000,
        finished=row["finished_at_us"] > 0,
        accepted_at_us=row["accepted_at_us"],
        finished_at_us=row["finished_at_us"],
    )


async def list_schemas(
    request: pb.ListSchemasRequest, caller: Caller, db: Connection
) -> pb.EventSchemaPage:
    """Schemas by type and version, the built-in ones among them."""
    admit(caller, "ListSchemas", request.organisation_id)
    known = await schemas_of(request.organisation_id, request.type_prefix, db)
    after = request.cursor.partition("@")
    if request.cursor and (not after[2] or not version_like(after[2])):
        told = f"cursor {request.cursor!r} was not given by an earlier page"
        raise Rejected(Code.INVALID_ARGUMENT, told, "cursor")
    limit = request.limit or PAGE
    rest = [
        one
        for one in known
        if not request.cursor or place(one.event_type, one.version) > place(after[0], after[2])
    ]
    page = pb.EventSchemaPage(schemas=rest[:limit])
    if len(rest) > limit:
        last = page.schemas[-1]
        page.next_cursor = f"{last.event_type}@{last.version}"
    return page


async def get_schema(
    request: pb.GetSchemaRequest, caller: Caller, db: Connection
) -> pb.EventSchema:
    """One version of a type's schema; `latest` is the newest that takes events."""
    admit(caller, "GetSchema", request.organisation_id)
    known = [
        one
        for one in await schemas_of(request.organisation_id, request.event_type, db)
        if one.event_type == request.event_type
    ]
    if request.version == "latest":
        found = [one for one in known if not one.deprecated][-1:]
    else:
        found = [one for one in known if one.version == request.version]
    if not found:
        told = f"no version {request.version} of {request.event_type!r}"
        raise Rejected(Code.NOT_FOUND, told, "version")
    return found[0]


async def schemas_of(organisation_id: str, prefix: str, db: Connection) -> list[pb.EventSchema]:
    """Every schema whose type begins so, sorted by type and version."""
    cursor = await db.execute(
        "SELECT * FROM schemas WHERE organisation_id = %s AND starts_with(event_type, %s)",
        (organisation_id, prefix),
    )
    rows = await cursor.fetchall()
    cursor = await db.execute(
        "SELECT event_type, version FROM deprecations WHERE organisation_id = %s",
        (organisation_id,),
    )
    deprecated = {(row["event_type"], row["version"]) for row in await cursor.fetchall()}
    found = [*builtins(prefix), *map(schema_of, rows)]
    for one in found:
        one.deprecated = (one.event_type, one.version) in deprecated
    return sorted(found, key=lambda one: place(one.event_type, one.version))


def builtins(prefix: str) -> Iterator[pb.EventSchema]:
    """The platform's own schemas."""
    for event_type, versions in types().items():
        if event_type.startswith(prefix):
            for version, schema in versions.items():
                yield of_builtin(event_type, version, schema)


def of_builtin(event_type: str, version: str, schema: Schema) -> pb.EventSchema:
    """One of the platform's own, as the contract says it."""
    return pb.EventSchema(
        event_type=event_type,
        version=version,
        schema_json=schema.text,
        digest=schema.digest,
        compatibility=pb.COMPATIBILITY_BACKWARD_TRANSITIVE,
        builtin=True,
    )


def schema_of(row: Mapping[str, Any]) -> pb.EventSchema:
    """A row as the contract says it."""
    return pb.EventSchema(
        event_type=row["event_type"],
        version=row["version"],
        schema_json=row["schema_json"],
        digest=row["digest"],
        compatibility=row["compatibility"],
        upcast=pb.EventSchema.FromString(row["upcast"]).upcast,
        registered_at_us=row["registered_at_us"],
        recorded_by=row["event_id"],
    )


def place(event_type: str, version: str) -> tuple[str, tuple[int, int, int]]:
    """Where a version stands in the order."""
    return event_type, order(version)


def version_like(text: str) -> bool:
    """True for three numbers joined by dots."""
    parts = text.split(".")
    return len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts)


async def places(
    organisation_id: str, event_ids: Sequence[str], db: Connection
) -> dict[str, dict[str, Any]]:
    """Where events stand, by their ids; what is unknown is not in the answer."""
    cursor = await db.execute(
        "SELECT * FROM event_ids WHERE organisation_id = %s AND event_id = ANY(%s)",
        (organisation_id, list(event_ids)),
    )
    return {row["event_id"]: row for row in await cursor.fetchall()}
