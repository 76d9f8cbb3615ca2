"""Searches the audit index: which events fit, in an order, page by page.

1. What indexes can find is asked of them first, ROWS_MAX rows at most; all else is asked of those
   rows. A page that ends at that bound, or at TIME_MS, says so and how to go on.
2. What fits is decided by `filter.predicate`, as for subscriptions; SQL only finds what may fit.
3. A cursor is the place of a row in the order, so events that arrive meanwhile neither repeat nor
   shift what was told. It holds for the order that gave it.
4. The index keeps the rows of archived events: hot and cold are one answer.
"""

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple, cast

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.decide import PLATFORM
from loomos.loomdb.filter import Predicate, checked, condition_of, document, predicate
from loomos.loomdb.query.events import event_of
from loomos.loomdb.query.search_order import ORDERS, Order, behind, cursor_of
from loomos.loomdb.query.search_sql import Clause, Values, parts

__all__ = ["Asked", "asked_of", "bounded", "fits", "search_events"]

PAGE = 100
ROWS_MAX = 20_000
ROWS_FIRST = 2_000
ROWS_UNKEYED = 10_000
TIME_MS = 1_000
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


async def search_events(
    request: pb.SearchEventsRequest, caller: Caller, db: Db
) -> pb.EventSearchPage:
    """A page of the events that fit."""
    asked = asked_of(request, caller, "SearchEvents")
    order = Order(ORDERS[request.order], request.descending)
    if request.cursor:
        asked.scope.append(behind(request.cursor, order, asked.values))
    limit = request.limit or PAGE
    await bounded(db)
    for first, unkeyed in ((True, False), (False, False), (False, True)):
        rows_max = ROWS_FIRST if first else ROWS_UNKEYED if unkeyed else ROWS_MAX
        try:
            async with db.transaction():
                page = await page_of(asked, order, limit, rows_max, unkeyed, db)
        except psycopg.errors.QueryCanceled:
            continue
        if page.complete or not first:
            return page
    told = f"no page of this search was found in {TIME_MS} ms: {NARROW}"
    raise Rejected(Code.FAILED_PRECONDITION, told, "filter")


async def page_of(
    asked: Asked, order: Order, limit: int, rows_max: int, unkeyed: bool, db: Db
) -> pb.EventSearchPage:
    """The page that is found in so many rows; with `unkeyed`, of the order alone."""
    rows_max = max(rows_max, limit)
    inner = asked.scope if unkeyed else [*asked.scope, *asked.found]
    outer = [*asked.found, *asked.rest] if unkeyed else asked.rest
    within = f"FROM audit_events WHERE {all_of(inner)} ORDER BY {order.text}"
    text = f"SELECT {COLUMNS} {within} LIMIT {limit:d}"
    if outer:
        text = (
            f"SELECT {COLUMNS} FROM (SELECT {PLAIN}, search {within} LIMIT {rows_max:d}) AS c "  # noqa: S608 - constants and parameters
            f"WHERE {all_of(outer)} ORDER BY {order.text} LIMIT {limit:d}"
        )
    rows = await fetched(text, asked.values, db)
    kept = [row for row in rows if asked.holds is None or fits(row, asked.holds)]
    page = pb.EventSearchPage(events=[event_of(row) for row in kept], complete=True)
    if len(rows) == limit:
        page.next_cursor = cursor_of(rows[-1], order)
        return page
    if outer:
        text = f"SELECT {', '.join(order.columns)} {within} OFFSET {rows_max - 1:d}"
        for last in await fetched(f"{text} LIMIT 1", asked.values, db):
            page.next_cursor, page.complete = cursor_of(last, order), False
            page.stopped = f"looked at {rows_max} events and stopped there: {NARROW}"
    return page


def asked_of(request: Any, caller: Caller, action: str) -> Asked:
    """What a request asks for; raises Rejected naming what is wrong with it."""
    tree = tree_of(request)
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
    )


def tree_of(request: Any) -> pb.Filter:
    """All conditions of a request as one checked filter, under the filter's own words."""
    tree = pb.Filter(conditions=[condition_of(text) for text in request.where])
    tree.all_of.append(request.filter)
    waiting = [tree]
    while waiting:
        one = waiting.pop()
        for condition in one.conditions:
            if condition.path.startswith("data."):
                condition.path = f"payload.{condition.path.removeprefix('data.')}"
        for below in (one.all_of, one.any_of, one.none_of):
            waiting.extend(below)
    return checked(tree)


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


def all_of(clauses: Sequence[Clause]) -> str:
    """Clauses that all hold."""
    return " AND ".join(one.text for one in clauses) or "TRUE"


def fits(row: dict[str, Any], holds: Predicate) -> bool:
    """Whether an event of the index fits, by what it says exactly."""
    payload = row["payload"]
    users = "append_id" in payload and payload.get("event_type") == row["type"]
    return holds(document(row, payload, users, row["classification"]))


async def bounded(db: Db, time_ms: int = TIME_MS) -> None:
    """Let no statement of this transaction take longer; plans are for these values alone."""
    # Compiling a plan takes longer than most searches.
    await db.execute(
        "SELECT set_config('statement_timeout', %s, true), set_config('jit', 'off', true), "
        "set_config('work_mem', '32MB', true)",
        (str(time_ms),),
    )


async def fetched(text: str, values: Values, db: Db) -> list[dict[str, Any]]:
    """Rows of a statement that is made of constants in this file and in `search_sql`."""
    cursor = await db.execute(cast(LiteralString, text), values.given, prepare=False)
    return await cursor.fetchall()
