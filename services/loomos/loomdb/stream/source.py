"""One reader's way through the log: from any place on by the audit index, then by the tail.

1. `vector` is the reader's place: everything before it was given out or is not for this reader.
   Each record is passed once, whether it comes from the index or from the tail.
2. The source is asked and never pushes: a reader that does not ask holds nothing but its place.
"""

import asyncio
import contextlib
import itertools
from typing import Any

from loomos.loomdb import cursor as cursors
from loomos.loomdb.cursor import Vector
from loomos.loomdb.entry import Entry
from loomos.loomdb.filter import Selection
from loomos.loomdb.query.place import AWAY, projected, rows_between
from loomos.loomdb.sight import Seeing, Sight
from loomos.loomdb.state import PLATFORM
from loomos.loomdb.stream.tail import TICK_S, Tail

__all__ = ["Source"]

PAGE = 500
INDEX_S = 0.1
SCAN_MAX = 4000
"""Entries that are looked at before others get their turn."""


class Source:
    """Events for one reader, in the log's order within each partition."""

    def __init__(
        self, shell: Any, tail: Tail, selection: Selection, rights: Seeing, vector: Vector
    ) -> None:
        self.vector = vector
        """The reader's place; it is replaced and never changed."""
        self.live = False
        """True where all that the tail held was passed."""
        self._shell = shell
        self._tail = tail
        self._selection = selection
        self._rights = rights
        self.more = True
        """Whether the next `take` may find something without waiting."""
        self._next = -1
        """The number of the next entry of the tail; -1 while the index is read."""
        self._within = False
        """Whether all that is before the place was read by the tail or lies before its floor."""
        self._changed = tail.changed
        """What tells that the tail moved since this reader looked last."""

    @property
    def sight(self) -> Sight | None:
        """What the reader may see now; None while that is not known."""
        return self._rights.now()

    @property
    def blind(self) -> bool:
        """Whether it is known that the reader may see nothing any more."""
        sight = self.sight
        return sight is not None and sight.nothing

    async def wait(self, seconds: float) -> None:
        """Wait until there may be more, so long at most; others get their turn in any case."""
        changed = self._changed
        if self.more or not seconds:
            await asyncio.sleep(0)
        elif self._next < 0:
            # The index does not tell when it moves.
            await asyncio.sleep(min(seconds, INDEX_S))
        elif changed.is_set():
            await asyncio.sleep(0)
        elif seconds >= TICK_S:
            await changed.wait()
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await changed.wait()

    async def seen(self, found: list[Entry], before: Sight | None) -> list[Entry]:
        """Of what was taken since then, what the reader may still see."""
        while (sight := self.sight) is None:  # noqa: ASYNC110 - nothing tells when it is known
            # Nobody knows now: what was taken is kept back, not dropped.
            await asyncio.sleep(INDEX_S)
        if sight is before:
            return found
        return [entry for entry in found if entry.fits(self._selection, sight)]

    @property
    def cursor(self) -> str:
        """The reader's place as text."""
        return self._tail.cursor_of(self.vector)

    async def take(self, limit: int) -> list[Entry]:
        """The next events that fit, so many at most; none where there is nothing new now."""
        sight, self._changed = self.sight, self._tail.changed
        if sight is None:
            self.more = False
            return []
        if self._next < self._tail.first:
            self._next = self._tail.first if self._tail.covers(self.vector) else -1
        if self._next < 0:
            self.live = self._within = False
            return await self._from_index(limit, sight)
        return self._from_tail(limit, sight)

    def _from_tail(self, limit: int, sight: Sight) -> list[Entry]:
        found: list[Entry] = []
        tail, vector, selection = self._tail, self.vector, self._selection
        begin = self._next - tail.first
        end = min(len(tail.entries), begin + SCAN_MAX)
        for at in range(begin, end):
            entry = tail.entries[at]
            if entry.offset >= vector.get(entry.place, 0) and entry.fits(selection, sight):
                found.append(entry)
                if len(found) == limit:
                    end = at + 1
                    break
        self._next = tail.first + end
        self.live = self._next == tail.end
        self.more = not self.live
        self._within = self._within or within(vector, tail.passed)
        if self.live and self._within:
            self.vector = tail.passed
        else:
            looked_at = itertools.islice(tail.entries, begin, end)
            behind = {entry.place: entry.offset + 1 for entry in looked_at}
            self.vector = cursors.later(vector, behind)
        return found

    async def _from_index(self, limit: int, sight: Sight) -> list[Entry]:
        """A page of the index: to where it stands, and no further than the tail needs."""
        wanted = "" if sight.organisation == PLATFORM else sight.organisation
        try:
            async with self._shell.db() as db:
                ends = {place: base.offset for place, base in (await projected(db)).items()}
                rows = await rows_between(self.vector, ends, wanted, min(limit, PAGE), db)
        except AWAY:
            self.more = False
            return []
        self.vector = self.vector | {
            (row["topic"], row["partition"]): row["record_offset"] + 1 for row in rows
        }
        if len(rows) < min(limit, PAGE):
            self.vector = cursors.later(self.vector, ends)
        self.more = bool(rows) or self._tail.covers(self.vector)
        return [entry for entry in map(Entry.of_row, rows) if entry.fits(self._selection, sight)]


def within(vector: Vector, other: Vector) -> bool:
    """Whether one place is nowhere ahead of another."""
    return all(other.get(place, 0) >= offset for place, offset in vector.items())
