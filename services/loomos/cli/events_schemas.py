"""`loomos events schemas`: the forms that events of your own must have."""

import json
from typing import Annotated, Any

import typer

from loomos.cli.amounts import time_text
from loomos.cli.door import Door, segment
from loomos.cli.events_append import Organisation, content, path_of
from loomos.cli.show import Json, done, fields, listing, number, out, print_json, short

__all__ = ["app"]

PAGE = 200
PREFIX = "COMPATIBILITY_"

app = typer.Typer(help="Schemas of events.", no_args_is_help=True)

Type = Annotated[str, typer.Argument(help="The event type, e.g. model.training.start.")]
Version = Annotated[str, typer.Argument(help="Semantic version, e.g. 1.2.0.")]


@app.command("list")
def list_schemas(
    prefix: Annotated[str, typer.Argument(help="What the types begin with; else all.")] = "",
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """List the schemas that you may use, the built-in ones among them.

    Example: loomos events schemas list model.
    """
    with Door.open() as door:
        path = path_of(door, organisation, "schemas")
        found = list(door.pages(path, "schemas", {"type_prefix": prefix, "limit": PAGE}))
    rows = (
        (
            one["event_type"],
            one["version"],
            "built in" if one.get("builtin") else time_text(number(one, "registered_at_us")),
            "deprecated" if one.get("deprecated") else "",
            ", ".join(json.loads(one["schema_json"]).get("required", [])),
        )
        for one in found
    )
    columns = ("type", "version", "registered", "", "requires")
    listing(found, as_json, columns, rows, "no schema of this name")


@app.command()
def show(
    event_type: Type,
    version: Annotated[str, typer.Argument(help="E.g. 1.2.0, or latest.")] = "latest",
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Show one schema.

    Example: loomos events schemas show model.training.start
    """
    with Door.open() as door:
        rest = f"schemas/{segment(event_type)}/versions/{segment(version)}"
        found = door.call("GET", path_of(door, organisation, rest))
    if as_json:
        print_json(found)
        return
    fields(
        (
            ("type", found["event_type"]),
            ("version", found["version"]),
            ("compatibility", short(found.get("compatibility"), PREFIX).lower()),
            ("deprecated", "yes" if found.get("deprecated") else ""),
            ("built in", "yes" if found.get("builtin") else ""),
        )
    )
    out.print_json(found["schema_json"])


@app.command()
def register(
    event_type: Type,
    version: Version,
    schema: Annotated[str, typer.Argument(help="JSON Schema, or @FILE, or @- for standard input.")],
    compatibility: Annotated[
        str,
        typer.Option(
            help="backward, forward or full, each also with -transitive, or none; else as the "
            "type has it, backward-transitive at first."
        ),
    ] = "",
    upcast: Annotated[
        list[str] | None,
        typer.Option(
            help="A step from the version before: rename:PATH:NAME, move:PATH:PATH, "
            "default:PATH:JSON or drop:PATH; repeat."
        ),
    ] = None,
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Register a version of a type's schema (JSON Schema 2020-12).

    Example: loomos events schemas register lab.sample.taken 1.0.0 @sample.json
    """
    body: dict[str, Any] = {"version": version, "schema_json": content(schema)}
    if compatibility:
        body["compatibility"] = PREFIX + compatibility.upper().replace("-", "_")
    if upcast:
        body["upcast"] = [step_of(one) for one in upcast]
    with Door.open() as door:
        rest = f"schemas/{segment(event_type)}/versions"
        answer = door.call("POST", path_of(door, organisation, rest), body)
    done(f"{event_type} {version} registered", answer, as_json)


@app.command()
def deprecate(
    event_type: Type,
    version: Version,
    reason: Annotated[str, typer.Option(help="Why, for people.")] = "",
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Take no new events by a version; those that are there stay readable.

    Example: loomos events schemas deprecate lab.sample.taken 1.0.0 --reason "use 2.0.0"
    """
    with Door.open() as door:
        rest = f"schemas/{segment(event_type)}/versions/{segment(version)}:deprecate"
        answer = door.call("POST", path_of(door, organisation, rest), {"reason": reason})
    done(f"{event_type} {version} takes no new events", answer, as_json)


def step_of(text: str) -> dict[str, str]:
    """One step of an upcaster as the API takes it."""
    action, _, rest = text.partition(":")
    path, _, last = rest.partition(":")
    step = {"action": f"UPCAST_ACTION_{action.upper()}", "path": path}
    if last:
        step["value_json" if action == "default" else "to"] = last
    return step
