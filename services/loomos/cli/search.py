"""`loomos events search | stats | costs`: find events, and what they come to."""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from loomos.cli.amounts import time_text
from loomos.cli.door import AsOf, Door, place_of
from loomos.cli.show import Json, err, number, print_json, table
from loomos.client.profile import Refused

__all__ = ["add_to", "micros_of"]

Types = Annotated[
    list[str] | None,
    typer.Option("--type", help="E.g. model.training.failed, or job. for all that begin so."),
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", "-w", help="E.g. 'data.gpu_count >= 4'; repeat: each of them holds."),
]
Since = Annotated[
    str, typer.Option("--from", help="A time, e.g. 2026-11-01 or 2026-11-01T10:00:00Z.")
]
Until = Annotated[str, typer.Option("--to", help="Earlier than this time.")]
Org = Annotated[str, typer.Option("--org", help="Whose events; yours if not given.")]
Group = Annotated[
    list[str] | None, typer.Option("--group", help="A path to group by, at most three.")
]
Bucket = Annotated[str, typer.Option(help="Spans of time: 15m, 1h, 1d, 7d or 1mo.")]
PLAIN = {
    "tag": "tags contains",
    "priority": "priority =",
    "classification": "classification =",
    "user": "context.user_id =",
    "session": "context.session_id =",
    "request": "context.request_id =",
    "source_ip": "context.source_ip =",
    "user_agent": "context.user_agent prefix",
    "compliance": "context.compliance_level =",
    "cost_center": "context.cost_center =",
    "project": "context.project_id =",
}
EMPTY = "no events fit"


def add_to(app: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (search, stats, costs):
        app.command()(command)


def search(
    types: Types = None,
    where: Where = None,
    since: Since = "",
    until: Until = "",
    tag: Annotated[str, typer.Option(help="One of its tags.")] = "",
    priority: Annotated[str, typer.Option(help="low, normal, high or critical.")] = "",
    classification: Annotated[str, typer.Option(help="E.g. restricted.")] = "",
    user: Annotated[str, typer.Option(help="context.user_id")] = "",
    session: Annotated[str, typer.Option(help="context.session_id")] = "",
    request: Annotated[str, typer.Option(help="context.request_id")] = "",
    source_ip: Annotated[str, typer.Option(help="context.source_ip")] = "",
    user_agent: Annotated[str, typer.Option(help="What context.user_agent begins with.")] = "",
    compliance: Annotated[str, typer.Option(help="context.compliance_level")] = "",
    cost_center: Annotated[str, typer.Option(help="context.cost_center")] = "",
    project: Annotated[str, typer.Option(help="context.project_id")] = "",
    order: Annotated[str, typer.Option(help="time, type or actor.")] = "time",
    descending: Annotated[bool, typer.Option("--descending", help="Newest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Events a page.")] = 100,
    cursor: Annotated[str, typer.Option(help="Where an earlier page ended.")] = "",
    upcast: Annotated[
        bool, typer.Option("--upcast", help="Payloads by the newest version of their schema.")
    ] = False,
    organisation: Org = "",
    as_of: AsOf = "",
    as_json: Json = False,
) -> None:
    """Find events.

    Example: loomos events search --type model.training. -w 'data.hardware_config.gpu_count >= 4'
    --tag healthcare --compliance SOC2_TYPE2 --from 2026-01-01
    """
    told = {
        "tag": tag, "priority": priority, "classification": classification, "user": user,
        "session": session, "request": request, "source_ip": source_ip, "user_agent": user_agent,
        "compliance": compliance, "cost_center": cost_center, "project": project,
    }  # fmt: skip
    orders = {"time": "UNSPECIFIED", "type": "TYPE", "actor": "ACTOR"}
    if order not in orders:
        raise Refused(0, "INVALID_ARGUMENT", f"--order is {order!r}: want time, type or actor")
    body = selection(types, [*(where or ()), *conditions(told)], since, until, as_of)
    body |= {"order": f"EVENT_ORDER_{orders[order]}", "descending": descending, "limit": limit}
    page = asked("search", organisation, body | {"cursor": cursor, "upcast": upcast})
    events = page.get("events", [])
    if as_json:
        for event in events:
            print_json(event)
    else:
        columns = ("TIME", "TYPE", "STREAM", "ACTOR", "EVENT")
        table(columns, (row_of(event) for event in events), EMPTY)
    if gone := page.get("deleted_by_policy"):
        err.print(f"besides, the content of {gone} events was deleted by policy", markup=False)
    if not page.get("complete"):
        err.print(page.get("stopped"), style="yellow", markup=False)
    if page.get("next_cursor"):
        err.print(f"more: --cursor {page['next_cursor']}", markup=False)


def stats(
    types: Types = None,
    where: Where = None,
    since: Since = "",
    until: Until = "",
    group: Group = None,
    bucket: Bucket = "",
    outcome: Annotated[str, typer.Option(help="What tells success, e.g. data.status.")] = "",
    success: Annotated[list[str] | None, typer.Option(help="Its values that succeed.")] = None,
    failure: Annotated[list[str] | None, typer.Option(help="Its values that fail.")] = None,
    percentiles: Annotated[
        str, typer.Option(help="Time from one type to another: BEGIN..END[,END…]")
    ] = "",
    span: Annotated[str, typer.Option(help="They share: stream or correlation_id.")] = "stream",
    cost: Annotated[str, typer.Option(help="What to add up, e.g. data.cost_micros.")] = "",
    organisation: Org = "",
    as_of: AsOf = "",
    as_json: Json = False,
) -> None:
    """Count events: rates, durations and costs by group and time.

    Example: loomos events stats --type model.training. --group data.model_name --bucket 1d
    --percentiles model.training.start..model.training.complete,model.training.failed
    """
    body = selection(types, where or (), since, until, as_of)
    begins, dots, ends = percentiles.partition("..")
    if percentiles and not (dots and begins and ends):
        told = f"--percentiles is {percentiles!r}: want BEGIN..END[,END…], types of events"
        raise Refused(0, "INVALID_ARGUMENT", told)
    body |= {
        "group_by": group or [], "bucket": bucket, "outcome": outcome, "successes": success or [],
        "failures": failure or [], "begins": begins, "ends": ends.split(",") if ends else [],
        "span": span, "cost": cost,
    }  # fmt: skip
    answer = asked("analyze", organisation, body)
    shown = [
        column
        for column, wanted in (
            ("SUCCESS %", outcome), ("P50 s", percentiles), ("P95 s", percentiles),
            ("P99 s", percentiles), ("COST", cost),
        )
        if wanted
    ]  # fmt: skip
    show(answer, group or [], bucket, shown, as_json)


def costs(
    cost: Annotated[str, typer.Option(help="What to add up.")] = "data.cost_micros",
    types: Types = None,
    where: Where = None,
    since: Since = "",
    until: Until = "",
    group: Group = None,
    project: Annotated[int, typer.Option(min=0, max=60, help="Months ahead.")] = 0,
    organisation: Org = "",
    as_of: AsOf = "",
    as_json: Json = False,
) -> None:
    """Add up what events cost, by month, and what they will cost.

    Example: loomos events costs --group context.cost_center --project 3
    """
    body = selection(types, where or (), since, until, as_of)
    body |= {"group_by": group or [], "bucket": "1mo", "cost": cost, "projection_months": project}
    answer = asked("analyze", organisation, body)
    show(answer, group or [], "1mo", ["COST"], as_json)
    ahead = answer.get("projections", [])
    if as_json:
        for one in ahead:
            print_json(one)
    elif project:
        columns = (*(group or []), "MONTH", "EXPECTED", "80 %", "95 %", "FROM MONTHS")
        table(columns, (ahead_of(one) for one in ahead), "nothing is projected")


def selection(
    types: list[str] | None, where: Iterable[str], since: str, until: str, as_of: str
) -> dict[str, Any]:
    """What both kinds of question say of the events that they mean."""
    return {
        "types": types or [],
        "where": list(where),
        "from_us": micros_of(since, "--from"),
        "to_us": micros_of(until, "--to"),
        "as_of": as_of,
    }


def conditions(told: Mapping[str, str]) -> list[str]:
    """Options as conditions; a value is quoted, so that it stays a text."""
    return [f"{PLAIN[name]} {json.dumps(value)}" for name, value in told.items() if value]


def micros_of(text: str, name: str) -> int:
    """A time in microseconds since 1970; 0 for none."""
    if not text:
        return 0
    try:
        at = datetime.fromisoformat(re.sub("Z$", "+00:00", text))
    except ValueError as error:
        told = f"{name} is {text!r}: want a time such as 2026-11-01 or 2026-11-01T10:00:00Z"
        raise Refused(0, "INVALID_ARGUMENT", told) from error
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000)


def asked(what: str, organisation: str, body: dict[str, Any]) -> dict[str, Any]:
    """The platform's answer."""
    with Door.open() as door:
        path = place_of(door, organisation, f"audit/events/{what}", "whose events? give --org")
        return door.call("POST", path, body, reads=True)


def row_of(event: dict[str, Any]) -> list[str]:
    """An event in the table."""
    when = time_text(number(event, "at_us"))
    return [when, *(event.get(name, "") for name in ("type", "stream", "actor", "event_id"))]


def show(
    answer: dict[str, Any], group: list[str], bucket: str, shown: list[str], as_json: bool
) -> None:
    """Groups as JSON or as a table."""
    groups = answer.get("groups", [])
    if as_json:
        for one in groups:
            print_json(one)
    else:
        columns = [*group, *(["FROM"] if bucket else []), "EVENTS", *shown]
        table(columns, (cells(one, bucket, shown) for one in groups), EMPTY)
    if answer.get("stopped"):
        err.print(answer["stopped"], style="yellow", markup=False)


def cells(one: dict[str, Any], bucket: str, shown: list[str]) -> list[str]:
    """A group in the table."""
    known = {
        "SUCCESS %": f"{number(one, 'success_permille') / 10:g}",
        "COST": one.get("cost_decimal") or str(number(one, "cost")),
    }
    if not number(one, "successes") + number(one, "failures"):
        known["SUCCESS %"] = ""
    for percent in (50, 95, 99):
        seconds = number(one, f"duration_p{percent}_us") / 1_000_000
        known[f"P{percent} s"] = f"{seconds:g}" if number(one, "durations") else ""
    when = [time_text(number(one, "bucket_us"))] if bucket else []
    told = [*one.get("keys", []), *when, str(number(one, "count"))]
    return [*told, *(known[column] for column in shown)]


def ahead_of(one: dict[str, Any]) -> list[str]:
    """A month to come in the table."""
    return [
        *one.get("keys", []),
        time_text(number(one, "month_us")),
        str(number(one, "cost")),
        *(f"{number(one, f'low_{p}')} to {number(one, f'high_{p}')}" for p in (80, 95)),
        str(number(one, "months")),
    ]
