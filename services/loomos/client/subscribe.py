"""The client's live subscription: what the event stream says, over broken lines too."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from loomos.client.gateway import Door

__all__ = ["Asked", "Delivery", "subscribe"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a subscriber wants."""

    types: Sequence[str]
    where: Sequence[str]
    from_beginning: bool
    cursor: str
    until_live: bool


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event, and from where to go on behind the answer that brought it."""

    event: dict[str, Any]
    cursor: str


def subscribe(door: Door, organisation: str, asked: Asked) -> Iterator[Delivery]:
    """Events as they come; a broken line is taken up behind the last answer."""
    path = f"/api/v1/organisations/{organisation}/event-stream"
    cursor = asked.cursor
    for answer in door.stream(path, parameters(asked)):
        cursor = answer["cursor"] or cursor
        for event in answer["events"]:
            yield Delivery(event, cursor)
        if asked.until_live and answer["live"]:
            return


def parameters(asked: Asked) -> dict[str, Any]:
    """The query of the event stream."""
    given: dict[str, Any] = {"types": list(asked.types), "where": list(asked.where)}
    if asked.cursor:
        given["cursor"] = asked.cursor
    elif asked.from_beginning:
        given["start"] = "STREAM_START_BEGINNING"
    if asked.until_live:
        given["until_live"] = "true"
    return given
