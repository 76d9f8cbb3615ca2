"""A page in the order of time, joined from spans of time.

1. Postgres visits and sorts all that GIN finds, however few are wanted. So a page is looked for in
   spans, next ones first, each so wide as the last one lets expect enough.
2. It begins with the first rows of the order: what is frequent is found there without any index of
   values, and how much time they take tells how wide the first span is to be.
3. Spans follow each other without gap or overlap, so the page is the same as of one statement.
"""

import time
from typing import Any, NamedTuple

import psycopg

from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.query.answers import filled
from loomos.loomdb.query.search_order import Order, cursor_of
from loomos.loomdb.query.search_page import Asked, all_of, counted, follow, part_of, stop, told
from loomos.loomdb.spans import WIDTH_US_MAX, cut

__all__ = ["by_spans"]

WALK_PAGES = 2
WIDER, WIDER_MAX = 1.3, 32
SPANS_S = 0.8
"""After this a page is given with what was found."""
Db = psycopg.AsyncConnection[Any]


class Walk(NamedTuple):
    """What the first rows of the order came to."""

    page: pb.EventSearchPage
    last: dict[str, Any]
    width_us: int
    begin_us: int
    end_us: int
    """Between these times all rows are that are meant."""


async def by_spans(
    asked: Asked, order: Order, limit: int, rows_max: int, db: Db
) -> pb.EventSearchPage:
    """The page: from its first rows and then span by span."""
    until = time.monotonic() + SPANS_S
    walk = await walked(asked, order, limit, db)
    page, looked = walk.page, WALK_PAGES * limit
    if page.complete:
        return page
    asked = asked.behind(page.next_cursor, order)
    # What lies at the very time of the last row is behind it, too.
    at_us = walk.last["at_us"] + order.descending
    width, hits = walk.width_us, len(page.events)
    while walk.begin_us < at_us if order.descending else at_us < walk.end_us:
        wanted = limit - len(page.events)
        wider = WIDER * wanted / hits if hits else WIDER_MAX
        width = min(max(1, int(width * min(wider, WIDER_MAX))), WIDTH_US_MAX)
        begin, end = cut(at_us, width, order.descending)
        begin, end = max(begin, walk.begin_us), min(end, walk.end_us)
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


async def walked(asked: Asked, order: Order, limit: int, db: Db) -> Walk:
    """The page that the first rows of the order give, and where all rows are."""
    times = all_of([one for one in asked.scope if one.text.startswith("at_us ")])
    also = (
        "(SELECT max(at_us) - min(at_us) + 1 FROM c) AS width_us",
        f"(SELECT min(at_us) FROM audit_events WHERE {times}) AS begin_us",  # noqa: S608 - constants and parameters
        f"(SELECT max(at_us) + 1 FROM audit_events WHERE {times}) AS end_us",  # noqa: S608
    )
    outer, rows_max = [*asked.found, *asked.rest], WALK_PAGES * limit
    rows, whole = await counted(asked, asked.scope, outer, order, limit, rows_max, db, also)
    page = await told(rows, asked.holds)
    if len(rows) == limit or filled(rows):
        page.next_cursor = cursor_of(rows[-1], order)
    elif whole["looked"] == rows_max:
        stop(page, cursor_of(whole["last"], order), rows_max)
    return Walk(page, *(whole[name] for name in ("last", "width_us", "begin_us", "end_us")))
