"""Moments and cuts: how far each partition reaches at a time, found by reading the log.

1. A moment is a time, a position or an event's id, and each of them comes down to one time: the
   times of a partition's commands rise strictly, so an event's time ends its partition exactly
   behind the event's command.
2. A cut never splits a command, for its records share one time; effects are later than their
   causes on every partition, so what a cut holds, it holds with its causes.
3. A cut is final once every partition has shown a later event: until then it may still grow.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from loom.decider import Position
from loom.kit.errors import Failure, shown
from loom.log.clock import now_us
from loom.log.envelope import attributes_in
from loom.log.judge import START, Base, Kind
from loom.log.reader import Judged, Reader
from loom.log.topics import Bus

__all__ = ["Cut", "Edge", "Edges", "Reach", "TooMuch", "moment_of"]

EVENT_ID = re.compile(r"[0-9a-f]{32}\.[0-9]{1,6}")
POSITION = re.compile(r"(loomos\.[a-z-]{1,64}):([0-9]{1,5}):([0-9]{1,18})(?::([0-9]{1,9}))?")
MICROSECONDS = re.compile(r"[0-9]{1,17}")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
WAYPOINT_EVENTS = 5000
WANTED = (
    "want a time such as 2026-11-22T10:00:00Z or microseconds since 1970, a position "
    "topic:partition:offset, or an event's id"
)


def moment_of(text: str, field: str) -> int | str | Position:
    """A moment as callers write it: a time, an event's id, or a position; or Failure."""
    if text == "now":
        return now_us()
    if MICROSECONDS.fullmatch(text):
        return past(int(text), text, field)
    if EVENT_ID.fullmatch(text):
        return text
    place = POSITION.fullmatch(text)
    if place:
        topic, partition, offset, incarnation = place.groups(default="0")
        return Position(topic, int(partition), int(offset), int(incarnation))
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise Failure("INVALID_ARGUMENT", f"{field} is {shown(text)}: {WANTED}", field) from error
    if at.tzinfo is None:
        told = f"{field} is {shown(text)}: say which zone, e.g. {shown(text + 'Z')}"
        raise Failure("INVALID_ARGUMENT", told, field)
    return past((at - EPOCH) // timedelta(microseconds=1), text, field)


def past(at_us: int, text: str, field: str) -> int:
    """A time that has been."""
    if not 0 <= at_us <= now_us():
        told = f"{field} is {shown(text)}: want a time between 1970 and now"
        raise Failure("INVALID_ARGUMENT", told, field)
    return at_us


class TooMuch(Exception):
    """A cut holds more events than may be replayed for one question."""


class Reach(NamedTuple):
    """How far one partition is inside a cut."""

    topic: str
    partition: int
    base: Base
    """Behind the last command that is inside."""
    events: int
    """Valid events before it."""


class Cut(NamedTuple):
    """A moment as positions."""

    reaches: tuple[Reach, ...]
    final: bool

    @property
    def events(self) -> int:
        """All events inside: what a replay has to project."""
        return sum(reach.events for reach in self.reaches)

    def holds(self, other: "Cut") -> bool:
        """True where the other lies inside this one on every partition."""
        own = {reach[:2]: reach.base for reach in self.reaches}
        return len(own) == len(other.reaches) and all(
            reach[:2] in own
            and reach.base.offset <= own[reach[:2]].offset
            and reach.base.incarnation <= own[reach[:2]].incarnation
            for reach in other.reaches
        )


class Waypoint(NamedTuple):
    """A place between two commands where a later search may begin."""

    at_us: int
    base: Base
    events: int


BEGINNING = Waypoint(0, START, 0)


@dataclass(slots=True)
class Edge:
    """One partition's end at a time, found record by record."""

    until_us: int
    last: Waypoint = BEGINNING
    passed: bool = False
    """True once an event later than the time was seen: nothing comes before it any more."""
    waypoints: list[Waypoint] = field(default_factory=list)
    _open: int = 0

    def take(self, records: Iterable[Judged]) -> None:
        """The next records of the partition, in order."""
        for record in records:
            if self.passed or record.verdict.kind != Kind.EVENT:
                continue
            at_us = attributes_in(record.headers).time_us
            if at_us > self.until_us:
                self.passed = True
                return
            self._open += 1
            if record.verdict.closes:
                self.last = Waypoint(at_us, record.base, self.last.events + self._open)
                self._open = 0
                known = self.waypoints[-1].events if self.waypoints else 0
                if self.last.events >= known + WAYPOINT_EVENTS:
                    self.waypoints.append(self.last)


class Edges:
    """Finds cuts of some topics, and remembers places from which the next search may begin."""

    def __init__(self, bus: Bus, topics: Iterable[str]) -> None:
        self._bus = bus
        self._topics = tuple(sorted(topics))
        self._waypoints: dict[tuple[str, int], list[Waypoint]] = {}

    async def cut(self, until_us: int, progress: Callable[[int], None], events_max: int) -> Cut:
        """Where a time cuts every partition; raises TooMuch, LogAway or LogDiverged."""
        reaches: list[Reach] = []
        final = True
        for topic in self._topics:
            for partition in range(self._bus.partitions):
                edge = await self._edge(topic, partition, until_us, progress, events_max)
                reaches.append(Reach(topic, partition, edge.last.base, edge.last.events))
                final &= edge.passed
                if sum(reach.events for reach in reaches) > events_max:
                    raise TooMuch
        return Cut(tuple(reaches), final)

    async def _edge(
        self,
        topic: str,
        partition: int,
        until_us: int,
        progress: Callable[[int], None],
        events_max: int,
    ) -> Edge:
        known = self._waypoints.setdefault((topic, partition), [])
        place = bisect_right([one.at_us for one in known], until_us)
        edge = Edge(until_us, waypoints=known[:place])
        if edge.waypoints:
            edge.last = edge.waypoints[-1]
        reader = Reader(self._bus, topic, partition, edge.last.base)
        end = await reader.start()
        try:
            while reader.next_offset < end and not edge.passed:
                records = await reader.batch()
                edge.take(records)
                if edge.last.events > events_max:
                    raise TooMuch
                progress(len(records))
        finally:
            await reader.stop()
        if len(edge.waypoints) > len(known):
            self._waypoints[topic, partition] = edge.waypoints
        return edge
