"""Searches the audit index: which events fit, in an order, page by page.

1. What indexes can find is asked of them first, ROWS_MAX rows at most; all else is asked of those
   rows, or of ROWS_WALKED rows of the order where no index finds anything. A page that ends at that
   bound, or at TIME_MS, says so and how to go on.
2. What fits is decided by `filter.predicate`, as for subscriptions; SQL only finds what may fit.
3. A cursor is the place of a row in the order, so events that arrive meanwhile neither repeat nor
   shift what was told. It holds for the order that gave it.
4. The index keeps the rows of archived events: hot and cold are one answer. What a policy deleted
   is never shown; the first page says how many events of these types, owners and times are gone.
"""

from collections.abc import Sequence
from typing import Any

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.decide import PLATFORM
from loomos.loomdb.filter import predicate, whole_of
from loomos.loomdb.query import deleted
from loomos.loomdb.query.events import TIME_MS, bounded
from loomos.loomdb.query.search_order import ORDERS, PLACE, Order, behind
from loomos.loomdb.query.search_page import (
    NARROW,
    Asked,
    all_of,
    follow,
    page_of,
    part_of,
    shorten,
)
from loomos.loomdb.query.search_spans import by_spans
from loomos.loomdb.query.search_sql import Clause, Values, parts

__all__ = ["asked_of", "search_events"]

PAGE = 100
ROWS_MAX = 20_000
ROWS_FIRST = 2_000
ROWS_WALKED = 6_000
"""Where no index finds anything: a page of these is quick, and many are as quick as one of all."""
ROWS_UNKEYED = 10_000
Db = psycopg.AsyncConnection[Any]


async def search_events(
    request: pb.SearchEventsRequest, caller: Caller, db: Db
) -> pb.EventSearchPage:
    """A page of the events that fit."""
    asked = asked_of(request, caller, "SearchEvents")
    await bounded(db)
    gone = 0
    if not request.cursor:
        types = typed(request.types, asked.values)
        known = all_of([*asked.scope, *([types] if types else [])])
        gone = await deleted.count_of(known, asked.values.given, db)
    page = await page_found(request, asked, db)
    shorten(page, Order(ORDERS[request.order], request.descending))
    page.deleted_by_policy = gone
    return page


async def page_found(request: pb.SearchEventsRequest, asked: Asked, db: Db) -> pb.EventSearchPage:
    """The page itself."""
    order = Order(ORDERS[request.order], request.descending)
    if request.cursor:
        asked.scope.append(behind(request.cursor, order, asked.values))
    limit = request.limit or PAGE
    stepped = order.columns == PLACE and (asked.valued or bool(request.types))
    try:
        async with db.transaction():
            if stepped:
                return await by_spans(asked, order, limit, ROWS_MAX, db)
            return await by_rows(asked, order, limit, db)
    except psycopg.errors.QueryCanceled:
        pass
    try:
        async with db.transaction():
            return await page_of(asked, order, limit, ROWS_UNKEYED, db, unkeyed=True)
    except psycopg.errors.QueryCanceled as error:
        told = f"no page of this search was found in {TIME_MS} ms: {NARROW}"
        raise Rejected(Code.FAILED_PRECONDITION, told, "filter") from error


async def by_rows(asked: Asked, order: Order, limit: int, db: Db) -> pb.EventSearchPage:
    """A page of what one index finds in the order itself, or finds little of."""
    page, looked = await part_of(asked, order, limit, ROWS_FIRST, db)
    rows_max = ROWS_MAX if asked.found else min(ROWS_MAX, ROWS_WALKED)
    if page.complete or looked >= rows_max:
        return page
    on, wanted = asked.behind(page.next_cursor, order), limit - len(page.events)
    rest, _ = await part_of(on, order, wanted, rows_max - looked, db, before=looked)
    follow(page, rest)
    return page


def asked_of(request: Any, caller: Caller, action: str) -> Asked:
    """What a request asks for; raises Rejected naming what is wrong with it."""
    tree = whole_of(request.where, request.filter)
    values = Values()
    clauses = parts(tree, values)
    found = [one for one in clauses if one.keyed]
    if wanted := typed(request.types, values):
        found.append(wanted)
    plain = not request.where and request.filter == pb.Filter()
    exact = plain or all(one.exact for one in clauses)
    return Asked(
        owned(request, caller, action, values),
        found,
        [one for one in clauses if not one.keyed and one.text != "TRUE"],
        None if exact else predicate(tree),
        values,
        "" if request.organisation_id == PLATFORM else request.organisation_id,
    )


def owned(request: Any, caller: Caller, action: str, values: Values) -> list[Clause]:
    """Whose rows the caller may see and asked for, and of which time."""
    own, scope = request.organisation_id, caller.scope(action)
    found = []
    if own != PLATFORM:
        found.append(Clause(f"organisation_id = {values.add(own)}::text", True))
    if not scope.all and own not in scope.organisations:
        organisations = values.add(list(scope.organisations))
        projects = values.add(list(scope.projects))
        found.append(
            Clause(
                f"(organisation_id = ANY({organisations}::text[])"
                f" OR project_id = ANY({projects}::text[]))"
            )
        )
    if request.from_us:
        found.append(Clause(f"at_us >= {values.add(request.from_us)}::bigint", True))
    if request.to_us:
        found.append(Clause(f"at_us < {values.add(request.to_us)}::bigint", True))
    return found


def typed(types: Sequence[str], values: Values) -> Clause | None:
    """The types asked for, exact ones and beginnings; None where all are."""
    exact = [name for name in types if not name.endswith(("*", "."))]
    tests = [f"type = ANY({values.add(exact)}::text[])"] if exact else []
    tests += [
        f"starts_with(type, {values.add(name.rstrip('*'))}::text)"
        for name in types
        if name not in exact
    ]
    return Clause(f"({' OR '.join(tests)})", True) if tests else None
