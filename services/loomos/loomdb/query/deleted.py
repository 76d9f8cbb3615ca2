"""What a policy deleted: how many events a question would find besides, and by whose leave.

Of a deleted event the index knows where it stood, when, whose and of which type it was, nothing of
what it said.
"""

import contextlib
from collections.abc import Mapping
from typing import Any, LiteralString, NamedTuple, cast

import psycopg

from loom.decider import Code, Rejected

__all__ = ["Allowed", "allowing", "count_of", "unknown"]

COUNTED_FIRST = 10_000
COUNT_MS = 3_000

Db = psycopg.AsyncConnection[Any]


class Allowed(NamedTuple):
    """A deleted record, and where `loomos.loomdb` holds the event that allowed it."""

    offset: int
    partition: int
    at: int


async def count_of(where: str, parameters: Mapping[str, Any], db: Db) -> int:
    """How many deleted events fit; `where` is made of constants.

    Nearly always few, and counted at once. Counting many has a time of its own: what a search may
    take is for the search. Beyond COUNT_MS nobody waits, and COUNTED_FIRST is answered.
    """
    fitting = f"SELECT FROM deleted_events WHERE {where}"
    few = await counted(f"{fitting} LIMIT {COUNTED_FIRST:d}", parameters, db)
    if few < COUNTED_FIRST:
        return few
    found = few
    with contextlib.suppress(psycopg.errors.QueryCanceled):
        async with db.transaction() as counting:
            limit = "SELECT set_config('statement_timeout', %s, true)"
            await db.execute(limit, (str(COUNT_MS),))
            found = await counted(fitting, parameters, db)
            # With it goes the time of its own.
            raise psycopg.Rollback(counting)
    return found


async def counted(fitting: str, parameters: Mapping[str, Any], db: Db) -> int:
    """The number of rows of a question."""
    text = f"SELECT count(*) AS found FROM ({fitting}) AS counted"  # noqa: S608
    cursor = await db.execute(cast(LiteralString, text), parameters)
    row: Any = await cursor.fetchone()
    return row["found"]


async def unknown(event_id: str, where: str, parameters: Mapping[str, Any], db: Db) -> Rejected:
    """The refusal for an event that is not there; for a deleted one it says by whose leave."""
    text = (
        "SELECT d.policy, d.event_id FROM deleted_events AS e "  # noqa: S608
        "LEFT JOIN policy_deletions AS d USING (topic, partition, record_offset) "
        f"WHERE e.event_id = %(id)s AND {where}"
    )
    cursor = await db.execute(cast(LiteralString, text), {**parameters, "id": event_id})
    row: Any = await cursor.fetchone()
    told = f"no event {event_id!r}"
    if row is not None:
        told = f"the content of event {event_id!r} was deleted by policy"
        if row["policy"] is not None:
            told += f" ({row['policy']}), event {row['event_id']}"
    return Rejected(Code.NOT_FOUND, told, "event_id")


async def allowing(topic: str, partition: int, offsets: list[int], db: Db) -> list[Allowed]:
    """Which event allowed the deletion of each of these records, in their order."""
    cursor = await db.execute(
        "SELECT record_offset, decided_partition, decided_offset FROM policy_deletions "
        "WHERE topic = %s AND partition = %s AND record_offset = ANY(%s) ORDER BY record_offset",
        (topic, partition, offsets),
    )
    return [
        Allowed(row["record_offset"], row["decided_partition"], row["decided_offset"])
        for row in await cursor.fetchall()
    ]
