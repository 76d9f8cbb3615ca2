"""One page of a search from the rows of one statement."""

import asyncio
from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple, cast

import psycopg

from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.filter import Predicate, document
from loomos.loomdb.query.answers import ANSWER_BYTES_MAX, carried_by, event_of, filled, light
from loomos.loomdb.query.search_order import Order, behind, cursor_of
from loomos.loomdb.query.search_sql import Clause, Values, where
from loomos.loomdb.spans import path_of

__all__ = [
    "COLUMNS", "NARROW", "PLAIN", "Asked", "all_of", "counted", "fetched", "fits", "follow",
    "page_of", "part_of", "shorten", "stop", "told",
]  # fmt: skip

PLAIN = (
    "topic, partition, record_offset, incarnation, event_id, type, at_us, actor, stream, version, "
    "shard, organisation_id, project_id, command_id, correlation_id, causation_id, payload"
)
COLUMNS = f"{PLAIN}, search ->> 'classification' AS classification"
NARROW = (
    "give a time range, types, or a condition with =, in or `tags contains`, which indexes can find"
)
ROWS_AT_ONCE = 500
Db = psycopg.AsyncConnection[Any]


class Asked(NamedTuple):
    """What a request asks for, ready to be asked of the index."""

    scope: list[Clause]
    """Whose rows and of which time."""
    found: list[Clause]
    """What indexes can find."""
    rest: list[Clause]
    """What is asked of each row."""
    holds: Predicate | None
    """What decides; None where SQL says all of it exactly."""
    values: Values
    owner: str
    """The organisation whose rows are meant; "" for those of all."""

    @property
    def valued(self) -> bool:
        """Whether values within `search` are looked up, of which GIN may find many."""
        return any("search @?" in one.text for one in self.found)

    def behind(self, cursor: str, order: Order) -> "Asked":
        """The same of what lies behind a cursor."""
        return self._replace(scope=[*self.scope, behind(cursor, order, self.values)])

    def within(self, begin_us: int, end_us: int) -> "Asked":
        """The same of [begin, end)."""
        add, found = self.values.add, self.found
        times = f"at_us >= {add(begin_us)}::bigint AND at_us < {add(end_us)}::bigint"
        scope = [*self.scope, Clause(times, True)]
        if self.valued:
            spans = Clause(f"search @? {add(path_of(begin_us, end_us))}::jsonpath", True)
            found = [*found, spans]
            if self.owner:
                # Where an event does not say whose it is, its row has it from an earlier one.
                found = [*found, where(["owner"], "=", [self.owner, ""], self.values)]
        if all("search @?" in one.text for one in found):
            # GIN finds all of it. Postgres takes its finds for fewer than they are, and would join
            # them with all rows of the time: no index can serve what IS TRUE stands behind.
            scope = [Clause(f"({all_of(scope)}) IS TRUE", True)]
        return self._replace(scope=scope, found=found)


async def page_of(
    asked: Asked, order: Order, limit: int, rows_max: int, db: Db, *, unkeyed: bool = False
) -> pb.EventSearchPage:
    """The page that is found in so many rows; with `unkeyed`, of the order alone."""
    page, _ = await part_of(asked, order, limit, rows_max, db, unkeyed=unkeyed)
    return page


async def part_of(
    asked: Asked,
    order: Order,
    limit: int,
    rows_max: int,
    db: Db,
    *,
    unkeyed: bool = False,
    before: int = 0,
) -> tuple[pb.EventSearchPage, int]:
    """The page that is found in so many rows, and how many were looked at, `before` counted in."""
    rows_max = max(rows_max, limit)
    inner = asked.scope if unkeyed else [*asked.scope, *asked.found]
    outer = [*asked.found, *asked.rest] if unkeyed else asked.rest
    last: dict[str, Any] | None = None
    if outer and inner != asked.scope:
        # What GIN finds is not to be looked up again only to see where it ends.
        rows, whole = await counted(asked, inner, outer, order, limit, rows_max, db)
        looked, last = whole["looked"], whole["last"]
    else:
        within = f"FROM audit_events WHERE {all_of(inner)} ORDER BY {order.text}"
        text = f"SELECT {COLUMNS} {within} LIMIT {limit:d}"
        if outer:
            text = (
                f"SELECT {COLUMNS} FROM (SELECT {PLAIN}, search {within} LIMIT {rows_max:d}) AS c "  # noqa: S608 - constants and parameters
                f"WHERE {all_of(outer)} ORDER BY {order.text} LIMIT {limit:d}"
            )
        rows = await fetched(light(text, order.text, limit), asked.values, db)
        looked = rows_max if outer else len(rows)
        if outer and len(rows) < limit and not filled(rows):
            text = f"SELECT {', '.join(order.columns)} {within} OFFSET {rows_max - 1:d} LIMIT 1"
            last = next(iter(await fetched(text, asked.values, db)), None)
    page = await told(rows, asked.holds)
    if len(rows) == limit or filled(rows):
        page.next_cursor = cursor_of(rows[-1], order)
    elif looked == rows_max and last:
        stop(page, cursor_of(last, order), before + rows_max)
    return page, before + looked


async def counted(
    asked: Asked,
    inner: Sequence[Clause],
    outer: Sequence[Clause],
    order: Order,
    limit: int,
    rows_max: int,
    db: Db,
    also: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What fits among so many rows, and of all of those how many they are and the last one's place.

    `also` are further columns of the latter.
    """
    turned = order._replace(descending=not order.descending)
    count, last = "(SELECT count(*) FROM c) AS looked", "(SELECT row_to_json(l) FROM l) AS last"
    fitting = f"SELECT * FROM c WHERE fits ORDER BY {order.text} LIMIT {limit:d}"  # noqa: S608
    text = (
        f"WITH c AS MATERIALIZED (SELECT {COLUMNS}, ({all_of(outer)}) AS fits FROM audit_events "  # noqa: S608 - constants and parameters
        f"WHERE {all_of(inner)} ORDER BY {order.text} LIMIT {rows_max:d}), "
        f"f AS ({light(fitting, order.text, limit)}), "
        f"l AS (SELECT {', '.join(order.columns)} FROM c ORDER BY {turned.text} LIMIT 1) "
        f"SELECT f.*, n.* FROM (SELECT {', '.join((count, last, *also))}) AS n "
        f"LEFT JOIN f ON TRUE ORDER BY {order.text}"
    )
    rows = await fetched(text, asked.values, db)
    return [row for row in rows if row["event_id"] is not None], rows[0]


async def told(rows: Sequence[dict[str, Any]], holds: Predicate | None) -> pb.EventSearchPage:
    """What of the rows fits, as a page that is the last one."""
    if len(rows) > ROWS_AT_ONCE:
        # Many take a second, in which nobody else is to wait.
        return await asyncio.to_thread(page_with, rows, holds)
    return page_with(rows, holds)


def page_with(rows: Sequence[dict[str, Any]], holds: Predicate | None) -> pb.EventSearchPage:
    """The same, at once."""
    kept = [row for row in rows if holds is None or fits(row, holds)]
    return pb.EventSearchPage(events=[event_of(row) for row in kept], complete=True)


def follow(page: pb.EventSearchPage, rest: pb.EventSearchPage) -> None:
    """Go on with what lies behind a page; changes it."""
    page.events.extend(rest.events)
    page.next_cursor, page.complete, page.stopped = (
        rest.next_cursor, rest.complete, rest.stopped,
    )  # fmt: skip


def shorten(page: pb.EventSearchPage, order: Order) -> None:
    """Leave to the next page what one answer cannot carry."""
    if page.ByteSize() <= ANSWER_BYTES_MAX:
        return
    kept = carried_by(page.events)
    last = page.events[kept - 1]
    place = last.position
    row = {"topic": place.topic, "partition": place.partition, "record_offset": place.offset}
    row |= {"at_us": last.at_us, "type": last.type, "actor": last.actor}
    del page.events[kept:]
    follow(page, pb.EventSearchPage(next_cursor=cursor_of(row, order), complete=True))


def stop(page: pb.EventSearchPage, cursor: str, looked: int) -> None:
    """Say that a page ends before it is full, and where to go on."""
    page.next_cursor, page.complete = cursor, False
    page.stopped = f"looked at {looked} events and stopped there: {NARROW}"


def all_of(clauses: Sequence[Clause]) -> str:
    """Clauses that all hold."""
    return " AND ".join(one.text for one in clauses) or "TRUE"


def fits(row: dict[str, Any], holds: Predicate) -> bool:
    """Whether an event of the index fits, by what it says exactly."""
    payload = row["payload"]
    users = "append_id" in payload and payload.get("event_type") == row["type"]
    return holds(document(row, payload, users, row["classification"]))


async def fetched(text: str, values: Values, db: Db) -> list[dict[str, Any]]:
    """Rows of a statement that is made of constants in these files and in `search_sql`."""
    cursor = await db.execute(cast(LiteralString, text), values.given, prepare=False)
    return await cursor.fetchall()
