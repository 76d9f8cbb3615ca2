"""`loomos diff A B`: what changed between two moments."""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from loomos.cli.door import Door, place_of, segment
from loomos.cli.show import Json, err, listing, short
from loomos.client.profile import Refused

__all__ = ["add_to"]

EMPTY = ("", '""', "0", "null", "false", "[]")
WIDE = 160
TABLE = re.compile(r"[a-z0-9_]+")


def add_to(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command()(diff)


def diff(
    earlier: Annotated[str, typer.Argument(help="A time, topic:partition:offset, or an event.")],
    later: Annotated[str, typer.Argument(help="Likewise; `now` is a moment too.")] = "now",
    what: Annotated[str, typer.Argument(help="Only this table's rows, or only an id's.")] = "",
    services: Annotated[
        list[str] | None, typer.Option("--service", help="Only this service; again for each.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows a service.")] = 1000,
    organisation: Annotated[str, typer.Option("--org", help="Whose rows; yours if none.")] = "",
    as_json: Json = False,
) -> None:
    """Show the rows that came, went and changed, with what each column was and is.

    Example: loomos diff 2026-11-22T10:00:00Z now jobs --service scheduler
    """
    params: dict[str, Any] = {"from_moment": earlier, "to_moment": later, "limit": limit}
    if what:
        params["table" if TABLE.fullmatch(what) else "row_id"] = what
    found: list[dict[str, Any]] = []
    with Door.open() as door:
        for service in services or compared():
            path = f"audit/changes/{segment(service)}"
            path = place_of(door, organisation, path, "whose rows? give --org")
            answer = asked(door, path, params, bool(services))
            found += answer.get("changes", [])
            if not answer.get("complete", True):
                err.print(f"{service} has more: raise --limit, or name a table", markup=False)
    rows = [row for one in found for row in rows_of(one)]
    listing(found, as_json, ("table", "key", "row", "column", "was", "is"), rows, "nothing changed")


def compared() -> list[str]:
    """The services whose tables are compared where none is named.

    Not loomdb's: they are an index of events, which only grows.
    """
    # Slow to import, and the rest of the command line does without it.
    from loom.log.topics import DECIDING

    return [service for service in DECIDING if service != "loomdb"]


def rows_of(change: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row that changed, a line a column; one that came or went, in one line."""
    kind = short(change["kind"], "CHANGE_KIND_").lower()
    head = (f"{change['service']}.{change['table']}", change["key"], kind)
    columns = change.get("columns", [])
    if kind == "changed":
        for column in columns:
            yield (*head, column["name"], column["before"], column["after"])
            head = ("", "", "")
        return
    side = "after" if kind == "added" else "before"
    keys = json.loads(change["key"] or "{}")
    told = " ".join(
        f"{one['name']}={one[side]}"
        for one in columns
        if one["name"] not in keys and one[side] not in EMPTY
    )
    told = told if len(told) <= WIDE else f"{told[:WIDE]}…"
    yield (*head, "", *((told, "") if kind == "removed" else ("", told)))


def asked(door: Door, path: str, params: dict[str, Any], named: bool) -> dict[str, Any]:
    """What changed in one service; nothing where it has no such table and was not named."""
    try:
        return door.call("GET", path, params=params)
    except Refused as refused:
        missing = refused.code == "NOT_FOUND" and any(
            one.get("field") == "table" for one in refused.fields
        )
        if missing and not named:
            return {}
        raise
