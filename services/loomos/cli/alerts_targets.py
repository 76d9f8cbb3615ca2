"""`loomos alerts targets`: places that alerts are told to; secrets come from files, never words."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from loomos.cli.admin import Org
from loomos.cli.door import AsOf, Door, place_of, segment
from loomos.cli.show import Json, done, listing

__all__ = ["app"]

app = typer.Typer(help="Places that alerts are told to.", no_args_is_help=True)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What to call it, e.g. on-call.")],
    plugin: Annotated[str, typer.Option(help="webhook, email, slack or pagerduty.")] = "webhook",
    address: Annotated[str, typer.Option(help="URL or e-mail address, or @FILE.")] = "",
    secret_file: Annotated[
        str, typer.Option(help="File with the webhook's key or PagerDuty's routing key; -: stdin.")
    ] = "",
    organisation: Org = "",
    as_json: Json = False,
) -> None:
    """Name a place. What is secret is sealed at the door and shown to nobody again.

    Example: loomos alerts targets create hook --address https://example.org/alerts
    --secret-file key.txt
    """
    body = {
        "name": name,
        "plugin": plugin,
        "address": read(address[1:]) if address.startswith("@") else address,
        "secret": read(secret_file) if secret_file else "",
    }
    with Door.open() as door:
        answer = door.call("POST", place_of(door, organisation, "alerts/targets"), body)
    done(f"target {answer.get('id', '')} is told from now on", answer, as_json)


def read(file: str) -> str:
    """A secret's file, without the line's end."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file}: {error}") from error
    return text.strip()


@app.command("list")
def list_targets(organisation: Org = "", as_of: AsOf = "", as_json: Json = False) -> None:
    """Show the places. Example: loomos alerts targets list"""
    with Door.open(as_of=as_of) as door:
        path = place_of(door, organisation, "alerts/targets")
        found = door.call("GET", path).get("targets", [])
    rows = (
        (one["name"], one["plugin"], one.get("hint", ""), one.get("pending", 0), one["target_id"])
        for one in found
    )
    listing(found, as_json, ("name", "plugin", "where", "waiting", "id"), rows, "no place is told")


@app.command("delete")
def delete(target_id: str, organisation: Org = "", as_json: Json = False) -> None:
    """Tell nothing more to a place. Example: loomos alerts targets delete target-acme-…"""
    with Door.open() as door:
        path = place_of(door, organisation, f"alerts/targets/{segment(target_id)}")
        answer = door.call("DELETE", path)
    done(f"target {target_id} is told no more", answer, as_json)
