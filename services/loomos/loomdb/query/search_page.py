"""One page of a search: from the rows of one statement, or joined from spans of time.

1. Postgres visits and sorts all that GIN finds, however few are wanted. So a page in the order of
   time is looked for in spans, next ones first, each so wide as the last one lets expect enough.
2. It begins with the first rows of the order: what is frequent is found there without any index of
   values, and how much time they take tells how wide the first span is to be.
3. Spans follow each other without gap or overlap, so the page is the same as of one statement.
"""

import time
from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple, cast

import psycopg

from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.filter import Predicate, document
from loomos.loomdb.query.events import event_of
from loomos.loomdb.query.search_order import Order, behind, cursor_of, time_of
from loomos.loomdb.query.search_sql import Clause, Values, where
from loomos.loomdb.spans import WIDTH_US_MAX, cut, keys

__all__ = [
    "COLUMNS", "NARROW", "PLAIN", "Asked", "all_of", "by_spans", "fetched", "fits", "follow",
    "page_of", "part_of",
]  # fmt: skip

WALK_PAGES = 2
WIDER, WIDER_MAX = 1.3, 32
SPANS_S = 0.8
"""After this a page is given with what was found."""
PLAIN = (
    "topic, partition, record_offset, incarnation, event_id, type, at_us, actor, stream, version, "
    "shard, organisation_id, project_id, command_id, correlation_id, causation_id, payload"
)
COLUMNS = f"{PLAIN}, search ->> 'classification' AS classification"
NARROW = (
    "give a time range, types, or a condition with =, in or `tags contains`, which indexes can find"
)
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
        if self.valued:
            found = [*found, where(["span"], "=", keys(begin_us, end_us), self.values)]
            if self.owner:
                # Where an event does not say whose it is, its row has it from an earlier one.
                found = [*found, where(["owner"], "=", [self.owner, ""], self.values)]
        times = f"at_us >= {add(begin_us)}::bigint AND at_us < {add(end_us)}::bigint"
        return self._replace(scope=[*self.scope, Clause(times, True)], found=found)


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
    within = f"FROM audit_events WHERE {all_of(inner)} ORDER BY {order.text}"
    text = f"SELECT {COLUMNS} {within} LIMIT {limit:d}"
    counted = bool(outer) and inner != asked.scope
    if counted:
        # Counted beside it: what GIN finds is not to be looked up again only to see where it ends.
        text = (
            f"WITH c AS MATERIALIZED (SELECT {PLAIN}, search {within} LIMIT {rows_max:d}), "  # noqa: S608 - constants and parameters
            f"f AS (SELECT {COLUMNS} FROM c WHERE {all_of(outer)} "
            f"ORDER BY {order.text} LIMIT {limit:d}) "
            "SELECT f.*, n.looked FROM (SELECT count(*) AS looked FROM c) AS n "
            f"LEFT JOIN f ON TRUE ORDER BY {order.text}"
        )
    elif outer:
        text = (
            f"SELECT {COLUMNS} FROM (SELECT {PLAIN}, search {within} LIMIT {rows_max:d}) AS c "  # noqa: S608 - constants and parameters
            f"WHERE {all_of(outer)} ORDER BY {order.text} LIMIT {limit:d}"
        )
    rows = await fetched(text, asked.values, db)
    looked = rows[0]["looked"] if counted else rows_max if outer else len(rows)
    rows = [row for row in rows if row["event_id"] is not None]
    page = told(rows, asked.holds)
    if len(rows) == limit:
        page.next_cursor = cursor_of(rows[-1], order)
    elif outer and looked == rows_max:
        text = f"SELECT {', '.join(order.columns)} {within} OFFSET {rows_max - 1:d}"
        for last in await fetched(f"{text} LIMIT 1", asked.values, db):
            stop(page, cursor_of(last, order), before + rows_max)
    return page, before + looked


async def by_spans(
    asked: Asked, order: Order, limit: int, rows_max: int, db: Db
) -> pb.EventSearchPage:
    """A page in the order of time, from its first rows and then span by span."""
    until = time.monotonic() + SPANS_S
    page, looked = await part_of(asked, order, limit, WALK_PAGES * limit, db, unkeyed=True)
    if page.complete:
        return page
    first, ends = await bounds(asked, order, db)
    asked = asked.behind(page.next_cursor, order)
    at_us = time_of(page.next_cursor)
    # What lies at the very time of the last row is behind it, too.
    at_us += order.descending
    width, hits = abs(at_us - first) + 1, len(page.events)
    while ends[0] < at_us if order.descending else at_us < ends[1]:
        wanted = limit - len(page.events)
        wider = WIDER * wanted / hits if hits else WIDER_MAX
        width = min(max(1, int(width * min(wider, WIDER_MAX))), WIDTH_US_MAX)
        begin, end = cut(at_us, width, order.descending)
        begin, end = max(begin, ends[0]), min(end, ends[1])
        width = end - begin
        part, looked = await part_of(
            asked.within(begin, end), order, wanted, rows_max - looked, db, before=looked
        )
        hits = len(part.events)
        follow(page, part)
        if part.next_cursor:
            return page
        at_us = begin if order.descending else end
        if time.monotonic() > until:
            place = {"at_us": at_us, "topic": "", "partition": 0, "record_offset": 0}
            stop(page, cursor_of(place, order), looked)
            return page
    follow(page, pb.EventSearchPage(complete=True))
    return page


async def bounds(asked: Asked, order: Order, db: Db) -> tuple[int, tuple[int, int]]:
    """When the first row of the order is, and between which times all rows that are meant are."""
    times = all_of([one for one in asked.scope if one.text.startswith("at_us ")])
    text = (
        f"SELECT (SELECT at_us FROM audit_events WHERE {all_of(asked.scope)} "  # noqa: S608 - constants and parameters
        f"ORDER BY {order.text} LIMIT 1) AS first, "
        f"(SELECT min(at_us) FROM audit_events WHERE {times}) AS begin, "
        f"(SELECT max(at_us) FROM audit_events WHERE {times}) AS last"
    )
    (row,) = await fetched(text, asked.values, db)
    return row["first"], (row["begin"], row["last"] + 1)


def told(rows: Sequence[dict[str, Any]], holds: Predicate | None) -> pb.EventSearchPage:
    """What of the rows fits, as a page that is the last one."""
    kept = [row for row in rows if holds is None or fits(row, holds)]
    return pb.EventSearchPage(events=[event_of(row) for row in kept], complete=True)


def follow(page: pb.EventSearchPage, rest: pb.EventSearchPage) -> None:
    """Go on with what lies behind a page; changes it."""
    page.events.extend(rest.events)
    page.next_cursor, page.complete, page.stopped = (
        rest.next_cursor, rest.complete, rest.stopped,
    )  # fmt: skip


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
