"""The command line's way to the gateway, and what its questions share."""

from typing import Annotated

import typer

from loomos.client.addresses import located, segment
from loomos.client.gateway import Door
from loomos.client.profile import Refused

__all__ = ["AsOf", "Door", "located", "place_of", "segment"]

AsOf = Annotated[
    str,
    typer.Option(
        "--as-of",
        help="As it was then: a time such as 2026-11-22T10:00:00Z, topic:partition:offset, or an "
        "event's id.",
    ),
]


def place_of(door: Door, organisation: str, path: str, told: str = "whose? give --org") -> str:
    """An organisation's path, the caller's own where none is given; raises Refused for neither."""
    whose = organisation or door.organisation_id
    if not whose:
        raise Refused(0, "INVALID_ARGUMENT", told)
    return f"/api/v1/organisations/{segment(whose)}/{path}"
