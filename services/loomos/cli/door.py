"""The command line's way to the gateway, and the option that all of its questions share."""

from typing import Annotated

import typer

from loomos.client.addresses import located, segment
from loomos.client.gateway import Door

__all__ = ["AsOf", "Door", "located", "segment"]

AsOf = Annotated[
    str,
    typer.Option(
        "--as-of",
        help="As it was then: a time such as 2026-11-22T10:00:00Z, topic:partition:offset, or an "
        "event's id.",
    ),
]
