"""Where events stand in the log, for who may see them."""

from typing import Any, LiteralString, cast

import psycopg

from loom.kit.authorize import Caller
from loomos.loomdb.query.events import owned, visible

__all__ = ["offsets_of", "places_of"]


async def places_of(
    organisation: str, ids: list[str], action: str, caller: Caller, db: psycopg.AsyncConnection
) -> dict[str, tuple[str, int, int]]:
    """Topic, partition and offset of each event of these that the caller may see."""
    where, parameters = visible(organisation, caller, action)
    columns = "topic, partition, record_offset FROM audit_events"
    text = f"SELECT event_id AS id, {columns} WHERE event_id = ANY(%(ids)s) AND {where}"
    places = await named(text, parameters | {"ids": ids}, db)
    if rest := [one for one in ids if one not in places]:
        own, given = owned(rest, [organisation])
        text = f"SELECT search ->> 'own_id' AS id, {columns} WHERE {own} AND {where}"
        places |= await named(text, parameters | given, db)
    return places


async def named(
    text: str, given: dict[str, Any], db: psycopg.AsyncConnection
) -> dict[str, tuple[str, int, int]]:
    """The places that a statement finds, by the id that it calls them."""
    found = await db.execute(cast(LiteralString, text), given)
    rows = cast("list[dict[str, Any]]", await found.fetchall())
    return {row["id"]: (row["topic"], row["partition"], row["record_offset"]) for row in rows}


async def offsets_of(
    organisation: str,
    topic: str,
    partition: int,
    span: tuple[int, int],
    caller: Caller,
    db: psycopg.AsyncConnection,
) -> set[int]:
    """The offsets in a range whose events the caller may see."""
    where, parameters = visible(organisation, caller, "ExportRecords")
    text = " UNION ALL ".join(
        f"SELECT record_offset FROM {table} WHERE topic = %(topic)s AND partition = %(partition)s "  # noqa: S608
        f"AND record_offset >= %(first)s AND record_offset < %(end)s AND {where}"
        for table in ("audit_events", "deleted_events")
    )
    given = {"topic": topic, "partition": partition, "first": span[0], "end": span[1]}
    found = await db.execute(cast(LiteralString, text), parameters | given)
    return {row["record_offset"] for row in cast("list[dict[str, Any]]", await found.fetchall())}
