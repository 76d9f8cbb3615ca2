"""`loomos retention | hold`: how long events are kept, and what is kept whatever the rules say."""

from typing import Annotated, Any

import typer

from loomos.cli.admin import Org
from loomos.cli.archive import day_of
from loomos.cli.door import Door, place_of, segment
from loomos.cli.show import Json, done, number, print_json, table

__all__ = ["hold", "retention"]

retention = typer.Typer(help="How long events are kept.", no_args_is_help=True)
hold = typer.Typer(help="Legal holds: what must be kept.", no_args_is_help=True)

Rule = Annotated[
    list[str] | None,
    typer.Option(
        "--rule", help="TYPE[:CLASSIFICATION]=KEEP[,ARCHIVE[,RECOMPRESS]] in days; again for each."
    ),
]


@retention.command("show")
def show_retention(organisation: Org = "", as_json: Json = False) -> None:
    """Show an organisation's rules and the defaults. Example: loomos retention show"""
    with Door.open() as door:
        told = door.call("GET", place_of(door, organisation, "retention"))
    if as_json:
        print_json(told)
        return
    rows = [
        (
            one.get("type_pattern", "") or "*",
            one.get("classification", "") or "any",
            one.get("retain_days", 0) or "default",
            one.get("archive_after_days", 0) or "default",
            one.get("recompress_after_days", 0) or "default",
        )
        for one in told.get("rules", [])
    ]
    given = told["defaults"]
    rows.append(
        (
            "(default)",
            "any",
            f"{given['retain_days']}, regulated {told['regulated_retain_days']}",
            given["archive_after_days"],
            given["recompress_after_days"],
        )
    )
    table(("type", "classification", "kept for days", "archived after", "recompressed"), rows, "")


@retention.command("set")
def set_retention(rules: Rule = None, organisation: Org = "", as_json: Json = False) -> None:
    """Set an organisation's rules in place of those before; the first that fits counts.

    Example: loomos retention set --rule 'model.*=1000,30' --rule '*:phi=4000'
    """
    body = {"rules": [rule_of(text) for text in rules or []]}
    with Door.open() as door:
        answer = door.call("PUT", place_of(door, organisation, "retention"), body)
    done(f"{len(body['rules'])} rules count now", answer, as_json)


def rule_of(text: str) -> dict[str, Any]:
    """A rule as it is written on the command line."""
    what, _, days = text.partition("=")
    pattern, _, classification = what.partition(":")
    numbers = days.split(",")
    if not all(one.isdigit() for one in numbers) or len(numbers) > 3:
        raise typer.BadParameter(
            f"{text!r}: want TYPE[:CLASSIFICATION]=KEEP[,ARCHIVE[,RECOMPRESS]]"
        )
    keep, after, later = [*map(int, numbers), 0, 0][:3]
    return {
        "type_pattern": pattern,
        "classification": classification,
        "retain_days": keep,
        "archive_after_days": after,
        "recompress_after_days": later,
    }


@hold.command("place")
def place_hold(
    reason: Annotated[str, typer.Option(help="Why, e.g. the case's number.")],
    subject: Annotated[str, typer.Option(help="A data subject, a stream or an actor.")] = "",
    story: Annotated[str, typer.Option("--correlation-id", help="A story.")] = "",
    type_pattern: Annotated[str, typer.Option("--type", help="Types, e.g. model.*")] = "",
    organisation: Org = "",
    as_json: Json = False,
) -> None:
    """Keep what fits all that is given, whatever the rules say, until the hold is released.

    Example: loomos hold place --subject run-7 --reason "case 2026-114"
    """
    scope = {"subject": subject, "correlation_id": story, "type_pattern": type_pattern}
    with Door.open() as door:
        path = place_of(door, organisation, "holds")
        answer = door.call("POST", path, {"scope": scope, "reason": reason})
    done(f"hold {answer.get('id', '')} stands", answer, as_json)


@hold.command("release")
def release_hold(
    hold_id: str,
    reason: Annotated[str, typer.Option(help="Why.")],
    organisation: Org = "",
    as_json: Json = False,
) -> None:
    """Let the rules count again. Example: loomos hold release HOLD --reason "case closed" """
    with Door.open() as door:
        path = place_of(door, organisation, f"holds/{segment(hold_id)}/release")
        answer = door.call("POST", path, {"reason": reason})
    done(f"hold {hold_id} is released", answer, as_json)


@hold.command("list")
def list_holds(organisation: Org = "", as_json: Json = False) -> None:
    """Show the holds that stand. Example: loomos hold list --json"""
    with Door.open() as door:
        found = door.call("GET", place_of(door, organisation, "retention")).get("holds", [])
    if as_json:
        for one in found:
            print_json(one)
        return
    rows = (
        (
            one["hold_id"],
            " ".join(f"{name}={text}" for name, text in one.get("scope", {}).items() if text)
            or "everything",
            one["reason"],
            day_of(number(one, "placed_at_us") // 1000),
            one["placed_by"],
        )
        for one in found
    )
    table(("hold", "keeps", "reason", "since", "by"), rows, "no hold stands")
