"""`loomos feeds`: an organisation's events in a Kafka topic that its own clients read."""

import json
from typing import Annotated

import typer

from loom.kit.config import Settings
from loomos.cli.amounts import time_text
from loomos.cli.door import Door, place_of
from loomos.cli.show import Json, done, err, number, print_json, short, table
from loomos.cli.subscriptions import Organisation, Upcast

__all__ = ["app"]

app = typer.Typer(help="Events in a Kafka topic for clients outside.", no_args_is_help=True)


@app.command("enable")
def enable(
    classification: Annotated[
        str, typer.Option(help="What may stand in it: public, internal, confidential, restricted.")
    ] = "internal",
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="All there is, not what comes from now on.")
    ] = False,
    upcast: Upcast = False,
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Switch a feed on. Example: loomos feeds enable --classification confidential"""
    body = {
        "classification": f"DATA_CLASSIFICATION_{classification.upper()}",
        "from_beginning": from_beginning,
        "upcast": upcast,
    }
    with Door.open() as door:
        whose = organisation or door.organisation_id
        answer = door.call("POST", place_of(door, organisation, "feed/enable"), body)
    done(f"the feed of {whose} is on: topic loomos.feed.{whose}", answer, as_json)
    folder = Settings.load("cli").home / "feeds" / whose
    told = f"where this platform runs, address and certificate come to {folder}"
    err.print(told, style="dim", markup=False)


@app.command("disable")
def disable(organisation: Organisation = "", as_json: Json = False) -> None:
    """Switch a feed off; its clients are let in no more. Example: loomos feeds disable"""
    with Door.open() as door:
        whose = organisation or door.organisation_id
        answer = door.call("POST", place_of(door, organisation, "feed/disable"), {})
    done(f"the feed of {whose} is off", answer, as_json)


@app.command("list")
def listed(organisation: Organisation = "", as_json: Json = False) -> None:
    """List the feeds that are on. Example: loomos feeds list"""
    with Door.open() as door:
        found = door.call("GET", place_of(door, organisation, "feeds")).get("feeds", [])
    home = Settings.load("cli").home
    for one in found:
        place = home / "feeds" / one["organisation_id"] / "feed.json"
        one["bootstrap"] = json.loads(place.read_text())["bootstrap"] if place.exists() else ""
    if as_json:
        for one in found:
            print_json(one)
        return
    rows = (
        (
            one["topic"],
            one["principal"],
            short(one["classification"], "DATA_CLASSIFICATION_").lower(),
            time_text(number(one, "enabled_at_us")),
            one["bootstrap"],
        )
        for one in found
    )
    table(("topic", "reader", "up to", "since", "address"), rows, "no feed is on")
