"""Single events and pages of them, in the index's order; what other reads of the index share.

1. A user's event is found by the log's id, or by the id that its organisation gave it; where both
   fit, the log's counts.
2. A page ends before it is larger than an answer may be.
"""

from collections.abc import Collection
from typing import Any, LiteralString, cast

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.decide import PLATFORM
from loomos.loomdb.query import deleted
from loomos.loomdb.query.answers import carried_by, event_of, filled, light
from loomos.loomdb.query.place import SHOWN
from loomos.loomdb.query.search_sql import Values
from loomos.loomdb.query.search_sql import where as within

__all__ = [
    "LIST_MS", "TIME_MS", "VISIBLE", "bounded", "cursor_of", "get_event", "list_events", "own_id",
    "owned", "place_of", "select", "visible",
]  # fmt: skip

PAGE = 100
TIME_MS = 1_000
LIST_MS = 5_000
ORDER = "at_us, topic, partition, record_offset"
VISIBLE = "(%(all)s OR organisation_id = ANY(%(organisations)s) OR project_id = ANY(%(projects)s))"


async def get_event(
    request: pb.GetEventRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.AuditEvent:
    """One event by its id."""
    where, parameters = visible(request.organisation_id, caller, "GetEvent")
    rows = await select(
        db, f"event_id = %(id)s AND {where}", parameters | {"id": request.event_id}, 1
    )
    if not rows:
        named, given = owned([request.event_id], [request.organisation_id])
        rows = await select(db, f"{named} AND {where}", parameters | given, 1)
    if not rows:
        raise await deleted.unknown(request.event_id, where, parameters, db)
    return event_of(rows[0])


async def list_events(
    request: pb.ListEventsRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.AuditEventPage:
    """A page of events, oldest first."""
    where, parameters = visible(request.organisation_id, caller, "ListEvents")
    conditions = [where]
    for condition, name, value in (
        ("starts_with(type, %(type)s)", "type", request.type_prefix),
        ("at_us >= %(from)s", "from", request.from_us),
        ("at_us < %(to)s", "to", request.to_us),
        ("actor = %(actor)s", "actor", request.actor),
        ("stream = ANY(%(stream)s)", "stream", streams_of(request)),
        ("correlation_id = %(correlation)s", "correlation", request.correlation_id),
    ):
        if value:
            conditions.append(condition)
            parameters[name] = value
    if request.cursor:
        conditions.append(f"({ORDER}) > (%(at)s, %(topic)s, %(partition)s, %(offset)s)")
        parameters |= place_of(request.cursor)
    limit = request.limit or PAGE
    await bounded(db, LIST_MS)
    rows = await select(db, " AND ".join(conditions), parameters, limit)
    page = pb.AuditEventPage(events=[event_of(row) for row in rows])
    kept = carried_by(page.events)
    del page.events[kept:]
    if len(rows) == limit or kept < len(rows) or filled(rows):
        page.next_cursor = cursor_of(rows[kept - 1])
    if not request.cursor:
        page.deleted_by_policy = await deleted.count_of(" AND ".join(conditions), parameters, db)
    return page


def streams_of(request: pb.ListEventsRequest) -> list[str]:
    """A stream's names in the log: a user's stream stands there behind its organisation's name."""
    asked = request.stream
    own = asked and "/" not in asked and request.organisation_id != PLATFORM
    return ([asked] if asked else []) + ([f"{request.organisation_id}/{asked}"] if own else [])


def owned(ids: Collection[str], organisations: Collection[str]) -> tuple[str, dict[str, Any]]:
    """The condition for users' events by the ids that their organisations gave them."""
    values = Values()
    clause = within(["own_id"], "=", ids, values)
    return f"{clause.text} AND organisation_id = ANY(%(owners)s)", values.given | {
        "owners": list(organisations)
    }


def own_id(event: pb.AuditEvent) -> str:
    """The id that its organisation gave a user's event; "" for what the platform decided."""
    payload = event.payload.fields
    if "append_id" not in payload or payload["event_type"].string_value != event.type:
        return ""
    return payload["event_id"].string_value


def visible(organisation: str, caller: Caller, action: str) -> tuple[str, dict[str, Any]]:
    """The condition for rows that the caller may see and asked for, and its parameters."""
    scope = caller.scope(action)
    parameters: dict[str, Any] = {
        "all": scope.all,
        "organisations": list(scope.organisations),
        "projects": list(scope.projects),
    }
    if organisation == PLATFORM:
        return VISIBLE, parameters
    return f"{VISIBLE} AND organisation_id = %(organisation)s", parameters | {
        "organisation": organisation
    }


async def bounded(db: psycopg.AsyncConnection[Any], time_ms: int = TIME_MS) -> None:
    """Let no statement of this transaction take longer; plans are for these values alone."""
    # Compiling a plan takes longer than most searches.
    await db.execute(
        "SELECT set_config('statement_timeout', %s, true), set_config('jit', 'off', true), "
        "set_config('work_mem', '32MB', true)",
        (str(time_ms),),
    )


async def select(
    db: psycopg.AsyncConnection, where: str, parameters: dict[str, Any], limit: int
) -> list[Any]:
    """Rows in the index's order; `where` is made of constants in this file."""
    text = f"SELECT {SHOWN} FROM audit_events e WHERE {where} ORDER BY {ORDER} LIMIT {limit:d}"  # noqa: S608
    try:
        cursor = await db.execute(cast(LiteralString, light(text, ORDER, limit)), parameters)
    except psycopg.errors.QueryCanceled as error:
        told = "these events were not found in time: give a shorter range of it, or fewer of them"
        raise Rejected(Code.FAILED_PRECONDITION, told) from error
    return await cursor.fetchall()


def cursor_of(row: dict[str, Any]) -> str:
    """A row's place in the order, as text."""
    return f"{row['at_us']}:{row['topic']}:{row['partition']}:{row['record_offset']}"


def place_of(cursor: str) -> dict[str, Any]:
    """The place that `cursor_of` gave."""
    parts = cursor.split(":")
    numbers = [parts[at] for at in (0, 2, 3)] if len(parts) == 4 else []
    if not numbers or not all(part.isdigit() and len(part) < 19 for part in numbers):
        raise Rejected(
            Code.INVALID_ARGUMENT, f"cursor {cursor!r} was not given by an earlier page", "cursor"
        )
    return {
        "at": int(parts[0]),
        "topic": parts[1],
        "partition": int(parts[2]),
        "offset": int(parts[3]),
    }
