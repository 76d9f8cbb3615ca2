"""Where readers of the stream begin and what they find behind it, from the audit index.

1. The index's own position is read before its rows: up to there nothing is missing in them.
2. Rows come in the order of their time, so those of a partition in the log's order.
"""

from collections.abc import Collection, Mapping
from typing import Any, LiteralString

import psycopg
import psycopg_pool

from loom.decider import Code, Rejected
from loom.log.judge import Base
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import cursor as cursors
from loomos.loomdb.cursor import Place, Vector

__all__ = [
    "AWAY",
    "SHOWN",
    "NotProjectedYet",
    "begins",
    "owners_of",
    "projected",
    "row_at",
    "row_of_event",
    "rows_between",
    "unknown_event",
]

SHOWN: LiteralString = (
    "e.topic, e.partition, e.record_offset, e.incarnation, e.event_id, e.type, e.at_us, "
    "e.actor, e.stream, e.version, e.shard, e.organisation_id, e.project_id, e.command_id, "
    "e.command_digest, e.correlation_id, e.causation_id, e.payload"
)
"""The columns of `audit_events e` that readers want: not `search`, which says the payload again."""

Db = psycopg.AsyncConnection[Any]
AWAY = (psycopg.OperationalError, psycopg_pool.PoolTimeout)
"""What says that the database is away: who reads tries again."""


class NotProjectedYet(Exception):
    """The index has not come to where a cursor stands."""


async def projected(db: Db) -> dict[Place, Base]:
    """How far the index is, by partition."""
    found = await db.execute(
        "SELECT topic, partition, base FROM positions WHERE projection = 'read-model'"
    )
    return {
        (row["topic"], row["partition"]): Base.parse(row["base"]) for row in await found.fetchall()
    }


async def begins(start: pb.EventStart, db: Db) -> Vector:
    """The place that a reader asks for; raises Rejected, or NotProjectedYet.

    Who asks for a place behind an event must be shown to see it: that is the caller's part.
    """
    given = (bool(start.start), bool(start.cursor), bool(start.from_us), bool(start.from_event_id))
    if sum(given) > 1:
        told = "start, cursor, from_us and from_event_id: give one of them at most"
        raise Rejected(Code.INVALID_ARGUMENT, told, "start")
    bases = await projected(db)
    if start.cursor:
        return at_cursor(start.cursor, bases)
    if start.start == pb.STREAM_START_BEGINNING:
        return {}
    ends = {place: base.offset for place, base in bases.items()}
    if start.from_event_id:
        row = await row_of_event(start.from_event_id, db)
        if row is None:
            raise unknown_event(start.from_event_id)
        behind = {(row["topic"], row["partition"]): row["record_offset"] + 1}
        return ends | await first_since(row["at_us"] + 1, db) | behind
    if start.from_us:
        return ends | await first_since(start.from_us, db)
    return ends


def unknown_event(event_id: str) -> Rejected:
    """The answer about an event that is not there, or that is not the caller's."""
    return Rejected(Code.NOT_FOUND, f"no event {event_id!r}", "from_event_id")


def at_cursor(text: str, bases: Mapping[Place, Base]) -> Vector:
    """The place of an earlier answer, compared with the log as it is."""
    vector, incarnations = cursors.parse(text)
    for place, offset in sorted(vector.items()):
        base = bases.get(place)
        if base is None:
            told = f"there is no partition {place[0]}/{place[1]}"
            raise Rejected(Code.INVALID_ARGUMENT, told, "cursor")
        if offset > base.offset:
            raise NotProjectedYet(f"{place[0]}/{place[1]} ends at {base.offset}, not {offset}")
        if incarnations[place] != base.incarnation:
            told = (
                f"{place[0]}/{place[1]} was restored since (incarnation {base.incarnation}, the "
                f"cursor says {incarnations[place]}): begin from a time or an event"
            )
            raise Rejected(Code.FAILED_PRECONDITION, told, "cursor")
    return vector


async def first_since(at_us: int, db: Db) -> Vector:
    """In each partition the first record of that time or later."""
    found = await db.execute(
        "SELECT topic, partition, min(record_offset) AS first FROM audit_events "
        "WHERE at_us >= %s GROUP BY topic, partition",
        (at_us,),
    )
    return {(row["topic"], row["partition"]): row["first"] for row in await found.fetchall()}


async def rows_between(
    begin: Mapping[Place, int], end: Mapping[Place, int], organisation: str, limit: int, db: Db
) -> list[dict[str, Any]]:
    """The index's rows from one place to another, oldest first, so many at most.

    Of one organisation, or of all where none is named.
    """
    places = [place for place in sorted(end) if begin.get(place, 0) < end[place]]
    ranges = (
        [topic for topic, _ in places],
        [partition for _, partition in places],
        [begin.get(place, 0) for place in places],
        [end[place] for place in places],
    )
    # Where each range begins is looked up first: older rows of the index are not even touched.
    found = await db.execute(
        "WITH wanted AS (SELECT * FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::bigint[]) "  # noqa: S608
        "  AS w(topic, partition, low, high)), "
        "earliest AS (SELECT min(first.at_us) AS at_us FROM wanted w, LATERAL ("
        "  SELECT e.at_us FROM audit_events e WHERE e.topic = w.topic "
        "  AND e.partition = w.partition AND e.record_offset >= w.low "
        "  ORDER BY e.record_offset LIMIT 1) first) "
        f"SELECT {SHOWN} FROM audit_events e JOIN wanted w USING (topic, partition) "
        "WHERE e.at_us >= (SELECT at_us FROM earliest) "
        "AND e.record_offset >= w.low AND e.record_offset < w.high "
        "AND (%s = '' OR e.organisation_id = %s) "
        "ORDER BY e.at_us, e.topic, e.partition, e.record_offset LIMIT %s",
        (*ranges, organisation, organisation, limit),
    )
    return await found.fetchall()


async def owners_of(
    streams: Collection[tuple[str, int, str]], db: Db
) -> dict[tuple[str, int, str], tuple[str, str]]:
    """The organisation and project that streams concern, as their earlier events said."""
    keys = sorted(streams)
    found = await db.execute(
        "SELECT s.topic, s.partition, s.stream, "
        "  coalesce((SELECT organisation_id FROM audit_events e WHERE e.topic = s.topic "
        "    AND e.partition = s.partition AND e.stream = s.stream AND organisation_id <> '' "
        "    ORDER BY version LIMIT 1), '') AS organisation_id, "
        "  coalesce((SELECT project_id FROM audit_events e WHERE e.topic = s.topic "
        "    AND e.partition = s.partition AND e.stream = s.stream AND project_id <> '' "
        "    ORDER BY version LIMIT 1), '') AS project_id "
        "FROM unnest(%s::text[], %s::int[], %s::text[]) AS s(topic, partition, stream)",
        ([key[0] for key in keys], [key[1] for key in keys], [key[2] for key in keys]),
    )
    return {
        (row["topic"], row["partition"], row["stream"]): (row["organisation_id"], row["project_id"])
        for row in await found.fetchall()
    }


async def row_of_event(event_id: str, db: Db) -> dict[str, Any] | None:
    """The index's row of one event."""
    found = await db.execute("SELECT * FROM audit_events WHERE event_id = %s", (event_id,))
    return await found.fetchone()


async def row_at(place: Place, offset: int, db: Db) -> dict[str, Any] | None:
    """The index's row of one record."""
    found = await db.execute(
        "SELECT * FROM audit_events WHERE topic = %s AND partition = %s AND record_offset = %s",
        (*place, offset),
    )
    return await found.fetchone()
