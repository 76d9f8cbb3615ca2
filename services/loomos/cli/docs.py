"""`loomos docs`: what the contracts declare, read from their descriptors and comments."""

import importlib
import json
from importlib import resources
from typing import Annotated, Any

import typer
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from loom.catalogue import events, name_of, version_of
from loom.log.topics import DECIDING
from loomos.cli.show import Json, fields, listing, table
from loomos.client.profile import Refused
from loomos.embedded.services import found, module

__all__ = ["app"]

EVERY = "every deciding service"
USERS = "users"
"""Who emits the built-in types of `loomos.data`."""

app = typer.Typer(help="What the contracts declare.", no_args_is_help=True)


@app.callback()
def docs() -> None:
    """What the contracts declare."""


@app.command("events")
def catalogue(
    event_type: Annotated[
        str, typer.Argument(help="One event's type, e.g. job.preempted; else all.")
    ] = "",
    emitted_by: Annotated[str, typer.Option("--service", help="Only this service's.")] = "",
    as_json: Json = False,
) -> None:
    """List the events: what each means, who emits it, what it carries, who hears it.

    What users append has its built-in types here too: `--service users`.

    Example: loomos docs events job.preempted
    """
    known = [entry for entry in entries() if emitted_by in ("", entry["emitted_by"])]
    if event_type:
        known = [entry for entry in known if entry["type"] == event_type]
        if not known:
            told = f"no event {event_type!r}: see `loomos docs events`"
            raise Refused(0, "NOT_FOUND", told)
    if event_type and not as_json:
        for entry in known:
            show(entry)
        return
    rows = (
        (
            entry["type"],
            entry["emitted_by"],
            ", ".join(entry["heard_by"]),
            ", ".join(one["name"] for one in entry["carries"]),
            entry["means"],
        )
        for entry in known
    )
    columns = ("event", "emitted by", "heard by", "carries", "means")
    listing(known, as_json, columns, rows, "no such event")


def show(entry: dict[str, Any]) -> None:
    """One event in full."""
    fields(
        (
            ("event", f"{entry['type']} (version {entry['version']})"),
            ("means", entry["means"]),
            ("emitted by", entry["emitted_by"]),
            ("heard by", ", ".join(entry["heard_by"]) or "nobody's decisions"),
            ("topic", entry["topic"]),
        )
    )
    rows = ((one["name"], one["type"], one["means"]) for one in entry["carries"])
    table(("carries", "type", "means"), rows, "nothing")


def entries() -> list[dict[str, Any]]:
    """The whole catalogue, sorted by service and type."""
    from loomos.gateway.openapi import comments_in

    commented = resources.files("loom.v1").joinpath("contracts.binpb").read_bytes()
    comments = comments_in([commented])
    listeners = heard()
    known = []
    for event_type, cls in events().items():
        descriptor: Any = cls.DESCRIPTOR
        service = name_of(descriptor.file)
        known.append(
            {
                "type": event_type,
                "version": version_of(descriptor),
                "means": comments.get(descriptor.full_name, ""),
                "emitted_by": service or EVERY,
                "topic": f"loomos.{service or '<service>'}",
                "heard_by": [
                    name
                    for name, source, types in listeners
                    if source == service and (not types or event_type in types)
                ],
                "carries": carried(descriptor, comments),
            }
        )
    known.sort(key=lambda entry: (entry["emitted_by"] == EVERY, entry["topic"]))
    return [*known, *built_in()]


def built_in() -> list[dict[str, Any]]:
    """The types that every organisation may append, a version each."""
    from loomos.data.catalogue import types

    return [
        {
            "type": event_type,
            "version": version,
            "means": (schema := json.loads(found.text)).get("description", ""),
            "emitted_by": USERS,
            "topic": "loomos.data",
            "heard_by": [],
            "carries": [
                {
                    "name": name if name in schema["required"] else f"{name}?",
                    "type": one.get("format") or one.get("type", "any"),
                    "means": one.get("description", ""),
                }
                for name, one in schema["properties"].items()
            ],
        }
        for event_type, versions in types().items()
        for version, found in versions.items()
    ]


def carried(descriptor: Descriptor, comments: dict[str, str]) -> list[dict[str, str]]:
    """A message's fields with their types and comments."""
    return [
        {"name": one.name, "type": type_text(one), "means": comments.get(one.full_name, "")}
        for one in descriptor.fields
    ]


def type_text(field: FieldDescriptor) -> str:
    """A field's type as the contract writes it."""
    if field.message_type is not None:
        name = field.message_type.name
    elif field.enum_type is not None:
        name = field.enum_type.name
    else:
        name = SCALARS.get(field.type, "?")
    return f"repeated {name}" if field.is_repeated else name


SCALARS = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}


def heard() -> list[tuple[str, str, tuple[str, ...]]]:
    """Who listens to whose events in deciding: listener, source, types (none: all)."""
    listeners = []
    for name in DECIDING:
        if name in found():
            service = importlib.import_module(module(name)).SERVICE
            listeners += [(name, one.service, one.types) for one in service.hears]
    return listeners
