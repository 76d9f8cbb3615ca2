"""`loomos keys | erase | erasures`: the keys that seal personal content, and ending them for ever.

1. `--dry-run` changes nothing and counts what an erasure would concern.
2. Erasing cannot be undone, so it asks, unless told not to; and it says when the keys are gone.
"""

import time
from typing import Annotated, Any

import typer

from loomos.cli.admin import Org
from loomos.cli.amounts import time_text
from loomos.cli.door import Door, place_of, segment
from loomos.cli.show import Json, done, err, fields, listing, number, place_text, print_json, short
from loomos.client.profile import Refused

__all__ = ["add_to"]

GROUNDS = (
    "request",
    "consent-withdrawn",
    "purpose-fulfilled",
    "unlawful",
    "obligation",
    "contract-ended",
)
WAIT_SECONDS = 30.0

keys = typer.Typer(help="The keys that seal personal content.", no_args_is_help=True)
erasures = typer.Typer(help="Erasures and their proofs.", no_args_is_help=True)

Reason = Annotated[str, typer.Option(help="Why, for people; nothing personal.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(keys, name="keys")
    app.add_typer(erasures, name="erasures")
    app.command("erase")(erase)


@keys.command("list")
def list_keys(subject: str = "", organisation: Org = "", as_json: Json = False) -> None:
    """List keys, living and dead; never their secrets.

    Example: loomos keys list --subject patient-7
    """
    with Door.open() as door:
        path = place_of(door, organisation, "keys")
        found = list(door.pages(path, "keys", {"subject": subject}))
    rows = (
        (
            one["key_id"],
            one["subject"],
            one.get("algorithm", ""),
            one.get("kek_id", ""),
            time_text(number(one, "created_at_us")),
            time_text(number(one, "destroyed_at_us")),
        )
        for one in found
    )
    columns = ("key", "subject", "seals by", "wrapped by", "made", "destroyed")
    listing(found, as_json, columns, rows, "no keys")


@keys.command("rotate")
def rotate(
    subject: str, reason: Reason = "", organisation: Org = "", as_json: Json = False
) -> None:
    """Seal what is new of a subject under a new key; what is old stays readable.

    Example: loomos keys rotate patient-7 --reason "laptop lost"
    """
    with Door.open() as door:
        body = {"subject": subject, "reason": reason}
        answer = door.call("POST", place_of(door, organisation, "keys/rotate"), body)
    done(f"the next key of {subject} is ordered", answer, as_json)


@keys.command("rewrap")
def rewrap(
    new: Annotated[
        bool, typer.Option("--new", help="Have a new key-encryption key made first.")
    ] = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Bring all keys under the key-encryption key that wraps now; the log is not touched.

    Example: loomos keys rewrap --new --reason "yearly"
    """
    with Door.open() as door:
        body = {"renew": new, "reason": reason}
        answer = door.call("POST", place_of(door, "platform", "keys/rewrap"), body)
    done("all keys are being wrapped anew", answer, as_json)


def erase(
    subject: str,
    reason: Annotated[str, typer.Option(help="Why, e.g. the request's number.")] = "",
    ground: Annotated[str, typer.Option(help=f"On which ground: {', '.join(GROUNDS)}.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it concerns.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    organisation: Org = "",
    as_json: Json = False,
) -> None:
    """Make everything personal of a subject unreadable for ever, by destroying its keys.

    Example: loomos erase patient-7 --dry-run

    Example: loomos erase patient-7 --ground request --reason "letter of 2026-11-20"
    """
    with Door.open() as door:
        path = place_of(door, organisation, f"erasure-previews/{segment(subject)}")
        preview = door.call("GET", path)
        if dry_run:
            show_preview(preview, as_json)
            return
        if ground not in GROUNDS or not reason:
            raise typer.BadParameter(f"say --reason, and --ground, one of {', '.join(GROUNDS)}")
        if not yes:
            show_preview(preview, False)
            typer.confirm("This cannot be undone. Erase?", abort=True, err=True)
        body = {
            "subject": subject,
            "ground": f"LEGAL_GROUND_{ground.replace('-', '_').upper()}",
            "reason": reason,
        }
        answer = door.call("POST", place_of(door, organisation, "erasures"), body)
        found = awaited(door, place_of(door, organisation, f"erasures/{segment(answer['id'])}"))
    show_erasure(found or {"erasure_id": answer["id"], "subject": subject}, as_json)


def awaited(door: Door, path: str) -> dict[str, Any]:
    """The erasure once its keys are gone, or as far as it is when patience ends."""
    found: dict[str, Any] = {}
    give_up = time.monotonic() + WAIT_SECONDS
    while not number(found, "completed_at_us") and time.monotonic() < give_up:
        try:
            found = door.call("GET", path)
        except Refused as refused:
            if refused.code != "NOT_FOUND":
                raise
        time.sleep(0.2)
    return found


@erasures.command("list")
def list_erasures(subject: str = "", organisation: Org = "", as_json: Json = False) -> None:
    """List erasures, newest first. Example: loomos erasures list"""
    with Door.open() as door:
        path = place_of(door, organisation, "erasures")
        found = list(door.pages(path, "erasures", {"subject": subject}))
    rows = (
        (
            one["erasure_id"],
            one["subject"],
            short(one.get("ground"), "LEGAL_GROUND_").lower(),
            time_text(number(one, "ordered_at_us")),
            time_text(number(one, "completed_at_us")),
            number(one, "events"),
        )
        for one in found
    )
    columns = ("erasure", "subject", "ground", "ordered", "keys gone", "events")
    listing(found, as_json, columns, rows, "no erasures")


@erasures.command("show")
def show(erasure_id: str, organisation: Org = "", as_json: Json = False) -> None:
    """Show the proof of an erasure: its events, their places, and which keys died.

    Example: loomos erasures show erasure-acme-…
    """
    with Door.open() as door:
        path = place_of(door, organisation, f"erasures/{segment(erasure_id)}")
        found = door.call("GET", path)
    show_erasure(found, as_json)


def show_preview(preview: dict[str, Any], as_json: bool) -> None:
    """What an erasure would concern."""
    if as_json:
        print_json(preview)
        return
    fields(
        (
            ("subject", preview.get("subject")),
            ("events", number(preview, "events")),
            ("first", time_text(number(preview, "first_at_us"))),
            ("last", time_text(number(preview, "last_at_us"))),
            ("keys", ", ".join(preview.get("key_ids", []))),
            ("legal holds", ", ".join(preview.get("holds", []))),
        )
    )


def show_erasure(found: dict[str, Any], as_json: bool) -> None:
    """An erasure and how far it is."""
    if as_json:
        print_json(found)
        return
    gone = number(found, "completed_at_us")
    fields(
        (
            ("erasure", found.get("erasure_id")),
            ("subject", found.get("subject")),
            ("ground", short(found.get("ground"), "LEGAL_GROUND_").lower()),
            ("reason", found.get("reason")),
            ("ordered by", found.get("ordered_by")),
            ("ordered", time_text(number(found, "ordered_at_us"))),
            (
                "by event",
                f"{found.get('event_id', '')} {place_text(found.get('position'))}".strip(),
            ),
            ("keys gone", time_text(gone)),
            (
                "says event",
                f"{found.get('completed_event_id', '')} "
                f"{place_text(found.get('completed_position'))}".strip(),
            ),
            ("dead keys", ", ".join(one["key_id"] for one in found.get("keys", []))),
            ("events concerned", number(found, "events")),
        )
    )
    if not gone:
        err.print("its keys are not gone yet: ask again with `loomos erasures show`")
