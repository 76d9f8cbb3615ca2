"""The newest events of the whole log in memory: read, judged and decoded once for all readers.

1. It begins where the audit index stands, and every event from there on passes through it: who has
   read the index up to `floor` goes on here without a gap and without a double.
2. It is bounded; what falls out of it moves `floor`, and who has not read it yet finds it in the
   index. So no reader, however slow, holds anything here, and none waits for another.
3. Nothing is read before the first reader comes. A log that diverged ends the process.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Any
from weakref import WeakKeyDictionary

from loom.decider import Recorded
from loom.kit.errors import Failure
from loom.log.judge import Base, Kind
from loom.log.reader import IDLE_MS, Judged, LogAway, Reader
from loom.log.topics import DECIDING
from loomos.loomdb import cursor as cursors
from loomos.loomdb.cursor import Place, Vector
from loomos.loomdb.entry import Entry
from loomos.loomdb.project.events import owner_of, speaks_for_itself
from loomos.loomdb.query.place import AWAY, owners_of, projected

__all__ = ["Tail", "tail_of"]

ENTRIES_MAX = 16_384
BYTES_MAX = 64 * 2**20
OWNERS_MAX = 100_000
RETRY_S = 0.5
TICK_S = 5.0
READY_S = 30.0
Stream = tuple[str, int, str]


class Tail:
    """What a process holds of the log's end; one a process."""

    def __init__(self, shell: Any) -> None:
        self.entries: deque[Entry] = deque()
        self.first = 0
        """The number of the oldest entry that is held."""
        self.floor: Vector = {}
        """Before this nothing is held any more."""
        self.head: Vector = {}
        """Up to here everything was read."""
        self.passed: Vector = {}
        """The place of who has passed all that is held. It is replaced and never changed: readers
        who are at the end share it."""
        self.incarnations: dict[Place, int] = {}
        self.changed = asyncio.Event()
        self._shell = shell
        self._cursor: tuple[Vector, str] = ({}, "")
        self._wanted = asyncio.Event()
        self._ready: set[Place] = set()
        self._bytes = 0
        self._sizes: deque[int] = deque()
        self._owners: OrderedDict[Stream, tuple[str, str]] = OrderedDict()
        self._places: list[Place] = [
            (f"loomos.{name}", partition)
            for name in DECIDING
            for partition in range(shell.settings.partitions)
        ]

    @property
    def end(self) -> int:
        """The number that the next entry gets."""
        return self.first + len(self.entries)

    @property
    def ready(self) -> bool:
        """True once every partition was read to where it ended when reading began."""
        return len(self._ready) == len(self._places)

    def covers(self, vector: Vector) -> bool:
        """Whether all that is behind this place is held."""
        return bool(self.floor) and all(
            vector.get(place, 0) >= offset for place, offset in self.floor.items()
        )

    def cursor_of(self, vector: Vector) -> str:
        """A reader's place as text; that of readers at the end is made once for all of them."""
        if vector is not self.passed:
            return cursors.text_of(vector, self.incarnations)
        if self._cursor[0] is not vector:
            self._cursor = vector, cursors.text_of(vector, self.incarnations)
        return self._cursor[1]

    async def started(self) -> None:
        """Have it read, and wait for it to be at the log's end; raises Failure UNAVAILABLE."""
        self._wanted.set()
        try:
            async with asyncio.timeout(READY_S):
                while not self.ready:
                    await self.changed.wait()
        except TimeoutError as error:
            raise Failure("UNAVAILABLE", "the log's end is not reached yet: retry") from error

    async def run(self) -> None:
        """Read for as long as the process lives, from the first wish on."""
        await self._wanted.wait()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick())
            for place in self._places:
                tasks.create_task(self._follow(place))

    async def _tick(self) -> None:
        """Wake who waits while nothing comes: one clock for all, and not a timer each."""
        while True:
            await asyncio.sleep(TICK_S)
            self._tell()

    async def _follow(self, place: Place) -> None:
        base = await self._index_at(place)
        self.floor[place] = self.head[place] = base.offset
        self.passed = self.passed | {place: base.offset}
        log = self._shell.log.bind(topic=place[0], partition=place[1])
        while True:
            reader = Reader(self._shell.settings, *place, base)
            try:
                end = await reader.start()
                while True:
                    # Looked at first: where nothing lies ahead the next batch is long in coming.
                    if reader.next_offset >= end and place not in self._ready:
                        self._ready.add(place)
                        self._tell()
                    await self._admit(place, reader, await reader.batch(IDLE_MS))
                    base = reader.base
            except LogAway as error:
                log.warning("the log is away from streams", reason=str(error))
                await asyncio.sleep(RETRY_S)
            finally:
                await reader.stop()

    async def _index_at(self, place: Place) -> Base:
        """Where the audit index stands in a partition, as soon as it stands anywhere."""
        while True:
            try:
                async with self._shell.db() as db:
                    found = (await projected(db)).get(place)
            except AWAY:
                found = None
            if found is not None:
                return found
            await asyncio.sleep(RETRY_S)

    async def _admit(self, place: Place, reader: Reader, records: list[Judged]) -> None:
        """Take a batch in; what a reader that began anew shows again is not taken twice."""
        events = [
            (reader.recorded(record), len(record.value or b""))
            for record in records
            if record.verdict.kind == Kind.EVENT and record.offset >= self.head[place]
        ]
        owned = await self._owned([recorded for recorded, _ in events])
        for (recorded, size), owner in zip(events, owned, strict=True):
            self.entries.append(Entry.of_record(recorded, *owner))
            self._sizes.append(size)
            self._bytes += size
        if records:
            self.head[place] = max(self.head[place], reader.next_offset)
            self.incarnations[place] = reader.judge.incarnation
            # The index comes to this place: it stands behind valid records only.
            last = events[-1][0].position.offset + 1 if events else 0
            behind = max(self.passed[place], reader.base.offset, last)
            self.passed = self.passed | {place: behind}
            self._shrink()
            self._tell()

    def _shrink(self) -> None:
        while len(self.entries) > ENTRIES_MAX or self._bytes > BYTES_MAX:
            entry = self.entries.popleft()
            self._bytes -= self._sizes.popleft()
            self.floor[entry.place] = entry.offset + 1
            self.first += 1

    def _tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def _owned(self, records: list[Recorded]) -> list[tuple[str, str]]:
        """Whom events concern: what they do not say, an earlier one of their stream said."""
        keys = [(r.position.topic, r.position.partition, r.stream) for r in records]
        said = [owner_of(record) for record in records]
        # What needs no earlier event waits for no database: users' events, above all.
        alone = [speaks_for_itself(record) for record in records]
        unknown = {
            key
            for key, one, (organisation, project) in zip(keys, alone, said, strict=True)
            if not one and not (organisation and project) and key not in self._owners
        }
        if unknown:
            self._owners |= await self._known_before(unknown)
        owned = []
        for key, one, (organisation, project) in zip(keys, alone, said, strict=True):
            if one:
                owned.append((organisation, project))
                continue
            earlier = self._owners.get(key, ("", ""))
            # The first that was said counts, as in the index.
            self._owners[key] = (earlier[0] or organisation, earlier[1] or project)
            self._owners.move_to_end(key)
            owned.append((organisation or earlier[0], project or earlier[1]))
        while len(self._owners) > OWNERS_MAX:
            self._owners.popitem(last=False)
        return owned

    async def _known_before(self, streams: set[Stream]) -> dict[Stream, tuple[str, str]]:
        while True:
            try:
                async with self._shell.db() as db:
                    return await owners_of(streams, db)
            except AWAY:
                await asyncio.sleep(RETRY_S)


TAILS: WeakKeyDictionary[Any, Tail] = WeakKeyDictionary()


def tail_of(shell: Any) -> Tail:
    """The tail of this process."""
    if shell not in TAILS:
        TAILS[shell] = Tail(shell)
    return TAILS[shell]
