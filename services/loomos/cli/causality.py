"""`loomos events causes | effects`: what led to an event, and what it led to."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.tree import Tree

from loomos.cli.amounts import time_text
from loomos.cli.door import AsOf, Door, place_of, segment
from loomos.cli.show import Json, err, line_of, number, out, print_json, printable

__all__ = ["add_to"]

Depth = Annotated[int, typer.Option(min=1, max=1000, help="Steps at most.")]
Limit = Annotated[int, typer.Option(min=1, max=2000, help="Events at most.")]
Org = Annotated[str, typer.Option("--org", help="Whose trail; yours if not given.")]
Dot = Annotated[bool, typer.Option("--dot", help="As a graph in DOT, for Graphviz.")]


def add_to(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command()(causes)
    app.command()(effects)


def causes(
    event_id: str,
    depth: Depth = 100,
    limit: Limit = 1000,
    organisation: Org = "",
    dot: Dot = False,
    as_of: AsOf = "",
    as_json: Json = False,
) -> None:
    """Show what led to an event, back to the beginning. Example: loomos events causes EVENT"""
    found = walked(event_id, "CAUSES", depth, limit, organisation, as_of)
    show(found, dot, as_json)


def effects(
    event_id: str,
    depth: Depth = 100,
    limit: Limit = 1000,
    organisation: Org = "",
    dot: Dot = False,
    as_of: AsOf = "",
    as_json: Json = False,
) -> None:
    """Show what an event led to. Example: loomos events effects EVENT --dot | dot -Tsvg"""
    found = walked(event_id, "EFFECTS", depth, limit, organisation, as_of)
    show(found, dot, as_json)


def walked(
    event_id: str, way: str, depth: int, limit: int, organisation: str, as_of: str
) -> dict[str, Any]:
    """The walk as the platform answers it."""
    with Door.open(as_of=as_of) as door:
        path = f"audit/events/{segment(event_id)}/causality"
        path = place_of(door, organisation, path, "whose trail? give --org")
        params = {"direction": f"CAUSAL_DIRECTION_{way}", "depth_max": depth, "limit": limit}
        return door.call("GET", path, params=params)


def show(found: dict[str, Any], dot: bool, as_json: bool) -> None:
    """A walk as JSON, as a graph or as a tree."""
    entries = found.get("entries", [])
    if as_json:
        for entry in entries:
            print_json(entry)
    elif dot:
        out.print(graph(entries), markup=False, soft_wrap=True, end="")
    else:
        out.print(tree(found["event_id"], found["direction"], entries), soft_wrap=True)
    if not found.get("complete"):
        err.print("there is more: raise --depth or --limit", markup=False)


def tree(event_id: str, direction: str, entries: list[dict[str, Any]]) -> Tree:
    """Each event under the one that it was reached from."""
    way = direction.removeprefix("CAUSAL_DIRECTION_").lower()
    whole = Tree(f"[dim]{way} of {escape(event_id)}[/dim]")
    branches = {-1: whole}
    for entry in entries:
        depth = number(entry, "depth")
        when = time_text(number(entry["event"], "at_us"))
        branches[depth] = branches[depth - 1].add(line_of(entry["event"], when))
    return whole


def graph(entries: list[dict[str, Any]]) -> str:
    """The events as a DOT graph: arrows lead from causes to effects."""
    events = [entry["event"] for entry in entries]
    known = {own_of(event): event["event_id"] for event in events}
    known |= {event["event_id"]: event["event_id"] for event in events}
    lines = ["digraph causality {", "  rankdir=LR; node [shape=box];"]
    for event in events:
        label = quoted(f"{event.get('type')}\n{event.get('stream')} v{event.get('version', 0)}")
        lines.append(f"  {quoted(event['event_id'])} [label={label}];")
    for event in events:
        cause = known.get(event.get("causation_id"))
        if cause not in (None, event["event_id"]):
            lines.append(f"  {quoted(cause)} -> {quoted(event['event_id'])};")
    return "\n".join([*lines, "}", ""])


def own_of(event: dict[str, Any]) -> str | None:
    """The id that an organisation gave its event; None for what the platform decided."""
    payload = event.get("payload") or {}
    return payload.get("event_id") if "append_id" in payload else None


def quoted(text: str) -> str:
    """Text as DOT quotes it: what events say cannot leave its label."""
    lines = (printable(line) for line in text.split("\n"))
    plain = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(plain) + '"'
