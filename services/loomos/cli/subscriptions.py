"""`loomos events subscribe` and `loomos subscriptions`: events as they come, and who takes them."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from loomos.cli.amounts import time_text
from loomos.cli.door import Door, place_of, segment
from loomos.cli.show import (
    Json,
    done,
    err,
    fields,
    line_of,
    listing,
    number,
    out,
    print_json,
    table,
)
from loomos.client.profile import Refused

__all__ = ["add_to", "app"]

app = typer.Typer(
    help="Subscriptions that remember how far their consumers are.", no_args_is_help=True
)

Organisation = Annotated[str, typer.Option("--org", help="Whose; else your own organisation's.")]
Types = Annotated[
    list[str] | None, typer.Option("--type", help="E.g. job.completed, or job. for all of them.")
]
Where = Annotated[
    list[str] | None,
    typer.Option(help="E.g. 'payload.accuracy >= 0.8', 'tags contains gpu'; repeat for more."),
]
From = Annotated[
    str,
    typer.Option(
        "--from",
        help="beginning, an event's id, microseconds since 1970, or a cursor; else from now on.",
    ),
]
Filter = Annotated[
    Path | None, typer.Option("--filter", help="A file with a filter as JSON, for any/none of.")
]
Upcast = Annotated[
    bool, typer.Option("--upcast", help="Payloads by the newest version of their schema.")
]


def add_to(events: typer.Typer) -> None:
    """Add `subscribe` to the commands of events."""
    events.command()(subscribe)


def subscribe(
    types: Types = None,
    where: Where = None,
    begin: From = "",
    until_live: Annotated[bool, typer.Option("--until-live", help="End where now begins.")] = False,
    upcast: Upcast = False,
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Show events as they come; after a break it goes on where it was. Ctrl-C ends it.

    Example: loomos events subscribe --type model. --where 'payload.accuracy >= 0.8'
    """
    asked: dict[str, Any] = {"types": types or [], "where": where or []} | start_of(begin)
    if until_live:
        asked["until_live"] = "true"
    if upcast:
        asked["upcast"] = "true"
    with Door.open() as door:
        for flow in door.stream(place_of(door, organisation, "event-stream"), asked):
            for event in flow.get("events", []):
                show_event(event, as_json)
            if until_live and flow.get("live"):
                return


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What people call it, e.g. billing.")],
    types: Types = None,
    where: Where = None,
    begin: From = "",
    filter_file: Filter = None,
    ack_deadline_ms: Annotated[int, typer.Option(help="How long a consumer may take.")] = 30_000,
    deliveries_max: Annotated[int, typer.Option(help="How often it is tried.")] = 5,
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Make a subscription.

    Example: loomos subscriptions create billing --type job. --from beginning
    """
    chosen: dict[str, Any] = {"types": types or [], "where": where or []}
    if filter_file is not None:
        chosen["filter"] = json_in(filter_file)
    body = {
        "name": name,
        "selection": chosen,
        "start": start_of(begin),
        "ack_deadline_ms": ack_deadline_ms,
        "deliveries_max": deliveries_max,
    }
    with Door.open() as door:
        answer = door.call("POST", place_of(door, organisation, "subscriptions"), body)
    done(f"subscription {name} is {answer['id']}", answer, as_json)


@app.command("list")
def listed(organisation: Organisation = "", as_json: Json = False) -> None:
    """List subscriptions. Example: loomos subscriptions list"""
    with Door.open() as door:
        found = all_of(door, organisation)
    rows = (
        (one["name"], selected(one), number(one, "dead"), one["subscription_id"]) for one in found
    )
    listing(
        found, as_json, ("name", "events", "dead", "id"), rows, "no subscription that you may see"
    )


@app.command("show")
def show(name: str, organisation: Organisation = "", as_json: Json = False) -> None:
    """Show a subscription and how far it is. Example: loomos subscriptions show billing"""
    with Door.open() as door:
        one = named(door, name, organisation)
    if as_json:
        print_json(one)
        return
    fields(
        (
            ("name", one["name"]),
            ("id", one["subscription_id"]),
            ("events", selected(one)),
            ("made by", one["created_by"]),
            ("made", time_text(number(one, "created_at_us"))),
            ("ack deadline", f"{number(one, 'ack_deadline_ms')} ms"),
            ("deliveries", f"{number(one, 'deliveries_max')} at most"),
            ("settled up to", one["cursor"]),
            ("dead letters", number(one, "dead")),
        )
    )


@app.command("delete")
def delete(name: str, organisation: Organisation = "", as_json: Json = False) -> None:
    """End a subscription. Example: loomos subscriptions delete billing"""
    with Door.open() as door:
        path = own_path(door, name, organisation)
        answer = door.call("DELETE", path)
    done(f"subscription {name} is deleted", answer, as_json)


@app.command("consume")
def consume(
    name: str,
    count: Annotated[int, typer.Option(min=0, help="End after so many; 0: go on.")] = 0,
    upcast: Upcast = False,
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Take a subscription's events and settle each once it is shown.

    Example: loomos subscriptions consume billing --json
    """
    shown = 0
    asked: dict[str, Any] = {"upcast": str(upcast).lower()}
    if count:
        # What is taken and not settled counts as delivered in vain.
        asked["batch_size"] = asked["unsettled_max"] = min(count, 100)
    with Door.open() as door:
        path = own_path(door, name, organisation)
        for flow in door.stream(f"{path}/deliveries", asked):
            given = flow.get("deliveries", [])
            given = given[: count - shown] if count else given
            for delivery in given:
                show_event(delivery["event"], as_json)
            if given:
                ids = [delivery["delivery_id"] for delivery in given]
                door.call("POST", f"{path}/settle", {"done": ids})
                shown += len(given)
            if count and shown >= count:
                return


@app.command("dead")
def dead(
    name: str,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    cursor: Annotated[int, typer.Option(min=0, help="The number behind which to begin.")] = 0,
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """List the events that no consumer could take. Example: loomos subscriptions dead billing"""
    with Door.open() as door:
        path = own_path(door, name, organisation)
        found = door.call("GET", f"{path}/dead", params={"limit": limit, "cursor": cursor})
    letters = found.get("letters", [])
    if as_json:
        for one in letters:
            print_json(one)
        return
    rows = (
        (
            number(one, "number"),
            one["type"],
            one["reason"],
            number(one, "attempts"),
            one["event_id"],
        )
        for one in letters
    )
    table(("number", "type", "reason", "deliveries", "event"), rows, "no dead letter")
    if number(found, "next_cursor"):
        err.print(f"more: --cursor {number(found, 'next_cursor')}", style="dim", markup=False)


@app.command("replay")
def replay(
    name: str,
    numbers: Annotated[
        list[int] | None, typer.Argument(help="Which dead letters; else all of them.")
    ] = None,
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Deliver dead letters again. Example: loomos subscriptions replay billing 3 4"""
    with Door.open() as door:
        path = own_path(door, name, organisation)
        answer = door.call("POST", f"{path}/replay", {"numbers": numbers or []})
    done("they are on their way again", answer, as_json)


def start_of(begin: str) -> dict[str, Any]:
    """Where to begin, as the contract names it."""
    if not begin or begin == "now":
        return {}
    if begin == "beginning":
        return {"start": "STREAM_START_BEGINNING"}
    if ":" in begin:
        return {"cursor": begin}
    return {"from_us": int(begin)} if begin.isdigit() else {"from_event_id": begin}


def all_of(door: Door, organisation: str) -> list[dict[str, Any]]:
    """The organisation's subscriptions."""
    found = door.call("GET", place_of(door, organisation, "subscriptions"))
    return list(found.get("subscriptions", []))


def named(door: Door, name: str, organisation: str) -> dict[str, Any]:
    """The subscription of this name or id; raises Refused."""
    for one in all_of(door, organisation):
        if name in (one["name"], one["subscription_id"]):
            return one
    raise Refused(404, "NOT_FOUND", f"no subscription {name!r}: `loomos subscriptions list`")


def own_path(door: Door, name: str, organisation: str) -> str:
    """The path of the subscription of this name or id."""
    own = named(door, name, organisation)["subscription_id"]
    return place_of(door, organisation, f"subscriptions/{segment(own)}")


def selected(one: dict[str, Any]) -> str:
    """Which events, in one line."""
    chosen = one.get("selection") or {}
    parts = [*chosen.get("types", []), *chosen.get("where", [])]
    return ", ".join(parts + (["filter"] if chosen.get("filter") else [])) or "all"


def json_in(file: Path) -> Any:
    """What a file says as JSON; raises Refused."""
    import json

    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise Refused(0, "INVALID_ARGUMENT", f"{file}: {error}") from error


def show_event(event: dict[str, Any], as_json: bool) -> None:
    """One event in one line."""
    if as_json:
        print_json(event)
        return
    out.print(f"[dim]{time_text(number(event, 'at_us'))}[/dim] {line_of(event)}")
    sys.stdout.flush()
