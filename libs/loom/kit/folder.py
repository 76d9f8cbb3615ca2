"""Folds one partition of a service's log into states, foreign facts included.

1. State changes only by folding a valid record of the own log. Foreign facts enter by
   `inputs.advanced`, whose folding applies exactly the foreign range that it names; the digest of
   the range's last record is compared, so two folds of one log cannot differ in silence.
2. A foreign event goes to the one shard that it concerns where the service can say which, else to
   every shard; a shard that comes later starts from all that went to every shard before.
3. Live decisions, reactors and time travel fold by this one class.
"""

import copy
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from loom.decider import Recorded
from loom.kit.contract import Hears, Service
from loom.log.envelope import attributes_in
from loom.log.judge import START, Base, Kind
from loom.log.reader import LogDiverged, Reader
from loom.log.topics import Bus, partition_of
from loom.v1 import common_pb2

__all__ = ["Folder", "Heard", "Inputs"]


SHELL_EVENTS: frozenset[type[Message]] = frozenset(
    (
        common_pb2.InputsAdvanced,
        common_pb2.CommandRefused,
        common_pb2.CommandAcknowledged,
        common_pb2.LogRestored,
    )
)
"""Written by the shell itself: they found no shard."""


@dataclass(slots=True)
class Heard:
    """A complete foreign command: the events of it that the service listens to."""

    base: Base
    """The base behind it."""
    events: list[Recorded] = field(default_factory=list)


class Inputs:
    """One foreign partition, read ahead.

    Where it lost records that were heard here and was restored, what is lost stays unheard from
    then on: the log tells where, so every fold agrees.
    """

    def __init__(
        self, bus: Bus, hears: Hears, topic: str, partition: int, base: Base = START
    ) -> None:
        self.hears = hears
        self.topic = topic
        self.partition = partition
        self.base = base
        """Where the folded state stands in the foreign partition."""
        self.waiting: deque[Heard] = deque()
        self._reader = Reader(bus, topic, partition, base)
        self._open: list[Recorded] = []
        self._read_to = base.offset
        self._restored: list[Base] = []
        """Where later incarnations of the foreign log begin, each behind its marker."""
        self._started = False

    async def read(self, wait_ms: int) -> bool:
        """Read ahead once; True when something that the service listens to is waiting."""
        if not self._started:
            await self._reader.start()
            self._started = True
        types = self.hears.types
        for record in await self._reader.batch(wait_ms):
            if record.verdict.kind == Kind.EVENT and (
                not types or attributes_in(record.headers).type in types
            ):
                self._open.append(self._reader.recorded(record))
            if record.verdict.kind == Kind.MARKER:
                self._note_incarnation(record.base)
            if record.verdict.closes:
                self._read_to = record.offset + 1
                if self._open:
                    self.waiting.append(Heard(record.base, self._open))
                    self._open = []
        return bool(self.waiting)

    def advance(self) -> common_pb2.Input | None:
        """Take all that waits, as the input that an `inputs.advanced` event names."""
        if not self.waiting:
            return None
        last = self.waiting[-1]
        place = common_pb2.Position(
            topic=self.topic,
            partition=self.partition,
            offset=last.base.offset,
            incarnation=last.base.incarnation,
        )
        return common_pb2.Input(next=place, from_offset=self.base.offset, digest=last.base.before)

    async def take(self, moved: common_pb2.Input) -> list[Recorded]:
        """The foreign events of the range, waiting for them to be read; raises LogDiverged."""
        until = moved.next.offset
        while self._read_to < until and self._loss(moved) is None:
            await self.read(wait_ms=500)
        lost = self._loss(moved)
        if lost is not None:
            return self._take_before(lost)
        taken: list[Heard] = []
        while self.waiting and self.waiting[0].base.offset <= until:
            taken.append(self.waiting.popleft())
        end = taken[-1].base if taken else self.base
        if (moved.from_offset, moved.next.offset, moved.digest) != (
            self.base.offset,
            end.offset,
            end.before,
        ):
            raise LogDiverged(
                f"partition {self.topic}/{self.partition}: offsets {moved.from_offset} to {until} "
                "do not hold what was heard there before"
            )
        self.base = end
        return [recorded for heard in taken for recorded in heard.events]

    def _note_incarnation(self, behind_marker: Base) -> None:
        """Keep where a later incarnation begins."""
        known = self._restored[-1].incarnation if self._restored else self.base.incarnation
        if behind_marker.incarnation > known:
            self._restored.append(behind_marker)

    def _loss(self, moved: common_pb2.Input) -> Base | None:
        """The incarnation before whose beginning a part of this range was lost, if any."""
        for restored in self._restored:
            if (
                moved.next.incarnation < restored.incarnation
                and restored.offset <= moved.next.offset
            ):
                return restored
        return None

    def _take_before(self, lost: Base) -> list[Recorded]:
        """What is left of a range whose end was lost: every fold from now on hears so much."""
        taken: list[Heard] = []
        while self.waiting and self.waiting[0].base.offset < lost.offset:
            taken.append(self.waiting.popleft())
        if taken:
            self.base = taken[-1].base
        return [recorded for heard in taken for recorded in heard.events]

    async def stop(self) -> None:
        """Disconnect; one that never read is closed too, else it is reported as forgotten."""
        await self._reader.stop()


class Folder:
    """The states of all shards of one partition, at one place in its log."""

    def __init__(
        self,
        service: Service,
        bus: Bus,
        partition: int,
        heard: Mapping[tuple[str, int], Base] | None = None,
    ) -> None:
        """Begin at offset 0, or where `heard` says that each foreign partition was let in to."""
        self.service = service
        self._partition = partition
        self._partitions = bus.partitions
        self.states: dict[str, Any] = {}
        self.versions: dict[str, int] = {}
        self.stories: dict[str, tuple[str, str]] = {}
        self.inputs: dict[tuple[str, int], Inputs] = {}
        for hears in service.hears:
            topic = f"loomos.{hears.service}"
            # Shards that share a key share a partition number, for the counts are the same.
            partitions = [partition] if hears.same_shard else range(bus.partitions)
            for foreign in partitions:
                base = (heard or {}).get((topic, foreign), START)
                self.inputs[topic, foreign] = Inputs(bus, hears, topic, foreign, base)
        self.template = service.initial("")
        """What a shard that comes later starts from: all that was heard before it."""

    def state(self, shard: str) -> Any:
        """The shard's state, founded on first sight."""
        found = self.states.get(shard)
        if found is None:
            found = copy.deepcopy(self.template)
            found.shard = shard
            self.states[shard] = found
        return found

    async def fold(self, recorded: Recorded) -> list[tuple[Recorded, list[str]]]:
        """Fold a record of the own log; the foreign events that it let in, and to which shards."""
        event = recorded.event
        self.apply(recorded.shard, recorded.stream, recorded.version, event)
        self.remember(recorded.stream, recorded.correlation_id, recorded.id)
        if type(event) is not common_pb2.InputsAdvanced:
            return []
        heard = []
        for moved in event.inputs:
            inputs = self.inputs.get((moved.next.topic, moved.next.partition))
            if inputs is None:
                continue
            for foreign in await inputs.take(moved):
                heard.append((foreign, self.hear(inputs.hears, foreign)))
        # Every shard learns how far the foreign logs were let in: rounds name it.
        for name in sorted(self.states):
            self.service.evolve(self.states[name], event)
        return heard

    def remember(self, stream: str, correlation_id: str, event_id: str) -> None:
        """Keep a stream's story: the correlation id of its first event, the id of its last."""
        known = self.stories.get(stream)
        self.stories[stream] = (correlation_id if known is None else known[0], event_id)

    def apply(self, shard: str, stream: str, version: int, event: Message) -> None:
        """Evolve the shard's state by an own event; what the shell itself wrote changes none."""
        self.versions[stream] = version
        if type(event) not in SHELL_EVENTS:
            self.service.evolve(self.state(shard), event)

    def hear(self, hears: Hears, foreign: Recorded) -> list[str]:
        """Apply one foreign event to the shards that it concerns; gives their names."""
        shard = foreign.shard if hears.same_shard else ""
        if hears.shard is not None:
            shard = hears.shard(foreign)
        if not shard:
            self.service.evolve(self.template, foreign.event)
            shards = sorted(self.states)
        elif partition_of(shard, self._partitions) == self._partition:
            self.state(shard)
            shards = [shard]
        else:
            shards = []
        for name in shards:
            self.service.evolve(self.states[name], foreign.event)
        return shards

    async def stop(self) -> None:
        """Disconnect from the foreign partitions."""
        for inputs in self.inputs.values():
            await inputs.stop()
