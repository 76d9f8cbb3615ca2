"""Analyses of the audit index: what events come to, by groups and spans of time.

1. Postgres gives what is looked at of each event, oldest first; `figures` counts. EVENTS_MAX events
   or what is had in LOOK_S at most; an answer that ends there says so.
2. Counting many events takes a thread, so that nobody else waits for it.
"""

import asyncio
import time
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, LiteralString, cast

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.kit.scratch import asked_at_us
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import figures
from loomos.loomdb.filter import check_path
from loomos.loomdb.query.events import bounded
from loomos.loomdb.query.search import asked_of
from loomos.loomdb.query.search_order import PLACE
from loomos.loomdb.query.search_page import NARROW, PLAIN, Asked, all_of, fits
from loomos.loomdb.query.search_sql import NUMBERS, TEXTS, Values, jsonpath

__all__ = ["analyze_events"]

EVENTS_MAX = 200_000
GROUPS_MAX = 10_000
TIME_MS = 5_000
LOOK_S = 8.0
CHUNK = 500
INT64_MAX = 2**63 - 1
Db = psycopg.AsyncConnection[Any]


async def analyze_events(
    request: pb.AnalyzeEventsRequest, caller: Caller, db: Db
) -> pb.EventAnalysis:
    """What the events that fit come to."""
    sensible(request)
    asked = asked_of(request, caller, "AnalyzeEvents")
    await bounded(db, TIME_MS)
    try:
        events, stopped = await looked_at(request, asked, db)
    except psycopg.errors.QueryCanceled as late:
        told = f"the events were not found in {TIME_MS} ms: {NARROW}"
        raise Rejected(Code.FAILED_PRECONDITION, told, "filter") from late
    question = figures.Question(
        request.bucket,
        frozenset(request.successes),
        frozenset(request.failures),
        request.begins,
        frozenset(request.ends),
    )
    found = await asyncio.to_thread(figures.summed, events, question)
    if len(found) > GROUPS_MAX:
        told = f"{len(found)} groups, at most {GROUPS_MAX}: group by less or give a longer bucket"
        raise Rejected(Code.FAILED_PRECONDITION, told, "group_by")
    answer = pb.EventAnalysis(
        groups=[group_of(key, found[key]) for key in sorted(found)],
        events=len(events),
        complete=not stopped,
    )
    notes = [stopped] if stopped else []
    if odd := sum(one.odd_costs for one in found.values()):
        notes.append(f"{odd} events have a {request.cost} that is no amount: it counts as 0")
    if request.cost and events and not any(one.costs for one in found.values()):
        notes.append(f"none of the {len(events)} events says {request.cost}: name another cost")
    if request.projection_months:
        end_us = min(await asked_at_us(db), request.to_us or INT64_MAX)
        months = request.projection_months
        answer.projections.extend(await asyncio.to_thread(ahead, events, months, end_us))
        if not answer.projections:
            notes.append(f"nothing is projected from fewer than {figures.MONTHS_MIN} whole months")
    answer.stopped = "; ".join(notes)
    return answer


def sensible(request: pb.AnalyzeEventsRequest) -> None:
    """Raise Rejected for a question that has no answer; gives paths their own words."""
    request.group_by[:] = [path_of(path, "group_by") for path in request.group_by]
    request.outcome = path_of(request.outcome, "outcome")
    request.cost = path_of(request.cost, "cost")
    if bool(request.outcome) != bool(request.successes or request.failures):
        told = "outcome and the values that are successes or failures belong together"
        raise Rejected(Code.INVALID_ARGUMENT, told, "outcome")
    if bool(request.begins) != bool(request.ends):
        told = "begins and ends belong together: give both types"
        raise Rejected(Code.INVALID_ARGUMENT, told, "begins")
    if request.projection_months and not request.cost:
        told = "a projection is of a cost: say which, e.g. payload.cost_micros"
        raise Rejected(Code.INVALID_ARGUMENT, told, "cost")


def path_of(path: str, field: str) -> str:
    """A path in the filter's words; raises Rejected where it leads nowhere."""
    if path.startswith("data."):
        path = f"payload.{path.removeprefix('data.')}"
    if path:
        check_path(path, field)
    return path


async def looked_at(
    request: pb.AnalyzeEventsRequest, asked: Asked, db: Db
) -> tuple[list[figures.Event], str]:
    """What is counted of each event that fits, oldest first, and at what bound that ended."""
    values, order = asked.values, ", ".join(PLACE)
    wanted = [*request.group_by, request.outcome, request.cost]
    cells = [f"{at(path, values)} AS c{place}" for place, path in enumerate(wanted)]
    columns = f"number, at_us, type, {request.span or 'stream'} AS span, {', '.join(cells)}"
    if asked.holds is not None:
        columns += f", {PLAIN}, search ->> 'classification' AS classification"
    # One more than is counted says that there is more, whether it fits or not.
    text = (
        f"SELECT {columns} FROM (SELECT {PLAIN}, search, row_number() OVER (ORDER BY {order}) "  # noqa: S608 - constants and parameters
        f"AS number FROM audit_events WHERE {all_of([*asked.scope, *asked.found])} "
        f"ORDER BY {order} LIMIT {EVENTS_MAX + 1:d}) AS e "
        f"WHERE {all_of(asked.rest)} OR number > {EVENTS_MAX:d} ORDER BY {order}"
    )
    groups, until = len(request.group_by), time.monotonic() + LOOK_S
    events: list[figures.Event] = []
    async with db.cursor("analysis") as cursor:
        await cursor.execute(cast(LiteralString, text), values.given)
        while rows := await cursor.fetchmany(CHUNK):
            if rows[-1]["number"] > EVENTS_MAX:
                rows.pop()
                stopped = f"counted the oldest of {EVENTS_MAX} events only: {NARROW}"
            elif time.monotonic() > until:
                stopped = (
                    f"counted the oldest {rows[-1]['number']} events in {LOOK_S:g} s: {NARROW}"
                )
            else:
                stopped = ""
            holds = asked.holds
            events += [event_in(row, groups) for row in rows if holds is None or fits(row, holds)]
            if stopped:
                return events, stopped
    return events, ""


def at(path: str, values: Values) -> str:
    """What stands at a path of an event, as text; nothing where no path is given."""
    if not path:
        return "NULL::text"
    if path in (*TEXTS, *NUMBERS):
        return f"{path}::text"
    place = values.add(jsonpath(path.split(".")))
    return f"jsonb_path_query_first(search, {place}::jsonpath) #>> '{{}}'"


def event_in(row: dict[str, Any], groups: int) -> figures.Event:
    """A row as it is counted."""
    keys = tuple(row[f"c{place}"] or "" for place in range(groups))
    outcome, cost = row[f"c{groups}"], row[f"c{groups + 1}"]
    return figures.Event(row["at_us"], row["type"], row["span"], keys, outcome, cost)


def group_of(key: figures.Group, found: figures.Figures) -> pb.EventGroup:
    """A group as the contract says it."""
    ordered = sorted(found.durations_us)
    return pb.EventGroup(
        keys=key[0],
        bucket_us=key[1],
        count=found.count,
        successes=found.successes,
        failures=found.failures,
        success_permille=figures.permille(found.successes, found.failures),
        durations=len(ordered),
        duration_p50_us=figures.percentile(ordered, 50),
        duration_p95_us=figures.percentile(ordered, 95),
        duration_p99_us=figures.percentile(ordered, 99),
        cost=figures.whole(found.cost),
        cost_decimal=figures.decimal(found.cost),
    )


def ahead(events: Sequence[figures.Event], months: int, end_us: int) -> list[pb.CostProjection]:
    """The costs of each group in months to come, learnt from the months that are over."""
    by_month = figures.summed(events, figures.Question("1mo"))
    groups: dict[tuple[str, ...], dict[int, int | Fraction]] = {}
    for (keys, month), found in by_month.items():
        if figures.month_after(month) <= end_us:
            groups.setdefault(keys, {})[month] = found.cost
    answer: list[pb.CostProjection] = []
    for keys, costs in sorted(groups.items()):
        first = month = min(costs)
        series: list[int | Fraction] = []
        # A month without events cost nothing, and it counts.
        while figures.month_after(month) <= end_us:
            series.append(costs.get(month, 0))
            month = figures.month_after(month)
        answer += [
            pb.CostProjection(keys=keys, months=len(series), **one._asdict())
            for one in figures.projected(series, first, months)
        ]
    return answer
