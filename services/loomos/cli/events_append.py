"""`loomos events append`: an event of your own, into the log."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from loomos.cli.door import Door, place_of
from loomos.cli.search import micros_of
from loomos.cli.show import Json, fields, print_json
from loomos.client.profile import Refused

__all__ = ["Consistency", "Organisation", "append", "content", "leveled", "path_of"]

CONTEXT, SECURITY = "Who did it, from where, on whose account", "How he was let in, who may see it"

Organisation = Annotated[str, typer.Option("--org", help="Whose; else your own organisation's.")]


class Level(StrEnum):
    """How many copies an event has before it is acknowledged."""

    ONE = "one"
    QUORUM = "quorum"
    ALL = "all"


Consistency = Annotated[
    Level | None, typer.Option(help="Copies that must have it; else what the cluster is set to.")
]


def append(
    event_type: Annotated[str, typer.Argument(help="What happened, e.g. model.training.failed.")],
    data: Annotated[str, typer.Option(help="JSON object, or @FILE, or @- for standard input.")],
    event_id: Annotated[str, typer.Option("--id", help="Same id, same content: counts once.")] = "",
    stream: Annotated[str, typer.Option(help="E.g. a run's name; else the type's own.")] = "",
    schema_version: Annotated[str, typer.Option("--version", help="E.g. 1.2.0; else newest.")] = "",
    expected: Annotated[
        int, typer.Option(min=-1, help="Events in the stream before; -1: any.")
    ] = -1,
    correlation: Annotated[str, typer.Option(help="The story that it belongs to.")] = "",
    causation: Annotated[str, typer.Option(help="Id of the event that caused it.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="A word to find it by; repeat.")] = None,
    priority: Annotated[str, typer.Option(help="low, normal, high or critical.")] = "",
    retention_days: Annotated[int, typer.Option(min=0, help="Keep so long; 0: policy.")] = 0,
    subject: Annotated[str, typer.Option(help="Pseudonym of whose personal data it holds.")] = "",
    personal: Annotated[
        list[str] | None, typer.Option(help="A personal place of it, e.g. /name; repeat.")
    ] = None,
    occurred: Annotated[str, typer.Option(help="When, e.g. 2026-11-22T10:00:00Z; else now.")] = "",
    user: Annotated[
        str, typer.Option(help="As your system names him.", rich_help_panel=CONTEXT)
    ] = "",
    session: Annotated[str, typer.Option(help="His session.", rich_help_panel=CONTEXT)] = "",
    request: Annotated[str, typer.Option(help="The request.", rich_help_panel=CONTEXT)] = "",
    source_ip: Annotated[
        str, typer.Option(help="E.g. 10.0.0.7 or 2001:db8::7.", rich_help_panel=CONTEXT)
    ] = "",
    user_agent: Annotated[
        str, typer.Option(help="The client's software.", rich_help_panel=CONTEXT)
    ] = "",
    compliance: Annotated[
        str, typer.Option(help="Regime, e.g. SOC2_TYPE2.", rich_help_panel=CONTEXT)
    ] = "",
    cost_center: Annotated[str, typer.Option(help="Who pays.", rich_help_panel=CONTEXT)] = "",
    project: Annotated[
        str, typer.Option(help="The project, e.g. acme.vision.", rich_help_panel=CONTEXT)
    ] = "",
    authentication: Annotated[
        str, typer.Option(help="E.g. oauth2_jwt.", rich_help_panel=SECURITY)
    ] = "",
    role: Annotated[
        list[str] | None,
        typer.Option(help="A role that he has; repeat.", rich_help_panel=SECURITY),
    ] = None,
    access_level: Annotated[
        str, typer.Option(help="E.g. confidential.", rich_help_panel=SECURITY)
    ] = "",
    classification: Annotated[
        str, typer.Option(help="Of its data, e.g. phi.", rich_help_panel=SECURITY)
    ] = "",
    geography: Annotated[
        str, typer.Option(help="Where it may be, e.g. us_only.", rich_help_panel=SECURITY)
    ] = "",
    consistency: Consistency = None,
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Append one event.

    Examples: loomos events append job.completed --data '{"job_id": "j-7", "status": "succeeded"}'

    loomos events append security.access.granted --data @granted.json --user dr.chen
    --source-ip 10.0.0.7 --session s-91 --compliance SOC2_TYPE2 --authentication oauth2_jwt
    --role radiologist --access-level confidential --classification phi --geography us_only
    """
    event: dict[str, Any] = {
        "type": event_type,
        "payload_json": content(data),
        "event_id": event_id,
        "stream": stream,
        "schema_version": schema_version,
        "correlation_id": correlation,
        "causation_id": causation,
        "data_subject": subject,
        "personal_paths": personal or [],
        "occurred_at_us": micros_of(occurred, "--occurred"),
        "context": {
            "user_id": user,
            "session_id": session,
            "request_id": request,
            "source_ip": source_ip,
            "user_agent": user_agent,
            "compliance_level": compliance,
            "cost_center": cost_center,
            "project_id": project,
        },
        "security": {
            "authentication_method": authentication,
            "authorization_roles": role or [],
            "access_level": access_level,
            "data_classification": classification,
            "geographic_restriction": geography,
        },
        "metadata": {
            "tags": tag or [],
            "priority": priority,
            "retention_override_days": retention_days,
        },
    }
    body: dict[str, Any] = {"event": said(event)}
    if expected >= 0:
        body["expected_stream_version"] = expected
    body |= leveled(consistency)
    with Door.open() as door:
        answer = door.call("POST", path_of(door, organisation, "events"), body)
    if as_json:
        print_json(answer)
        return
    (one,) = answer["events"]
    place = one["position"]
    fields(
        (
            ("event", one["event_id"]),
            ("stream", f"{one['stream']}, its number {one['version']}"),
            ("position", f"{place['topic']}/{place['partition']} offset {place['offset']}"),
            ("repeated", "it was there already" if one["duplicate"] else ""),
        )
    )


def leveled(consistency: Level | None) -> dict[str, str]:
    """The level as a request says it; nothing where none is asked for."""
    return {"consistency": f"CONSISTENCY_{consistency.name}"} if consistency else {}


def said(event: dict[str, Any]) -> dict[str, Any]:
    """The event without what was not said of it."""
    inner = {key: said(one) if isinstance(one, dict) else one for key, one in event.items()}
    return {key: one for key, one in inner.items() if one not in ("", 0, [], {})}


def path_of(door: Door, organisation: str, rest: str) -> str:
    """A path of the organisation's events."""
    return place_of(door, organisation, rest, "say whose events with --org")


def content(given: str) -> str:
    """JSON text as given, or from the file that `@` names."""
    if not given.startswith("@"):
        return given
    try:
        return sys.stdin.read() if given == "@-" else Path(given[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(0, "INVALID_ARGUMENT", f"{given[1:]} cannot be read: {error}") from error
