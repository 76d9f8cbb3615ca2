"""The archived beginning of one partition, read as if Kafka still had it.

1. A range is served from its newest object after the object's SHA-256 was compared with its
   manifest; the judge then sees the same bytes in the same order as it once did live.
2. What no object holds is not skipped: `NotArchived` names the offset.
3. An object that a newer one replaced meanwhile is looked for once more.
"""

import asyncio
from bisect import bisect_right
from pathlib import Path
from typing import Any

from .archive import Manifest, fetch, manifests, newest
from .depot import Depot, depot_of
from .parquet import Archived, DamagedArchive, decoded

__all__ = ["Cold", "NotArchived", "cache_of", "cold_of"]


class NotArchived(Exception):
    """The archive does not hold an offset that Kafka does not have any more."""


class Cold:
    """One reader's way into one partition's archive."""

    def __init__(self, depot: Depot, topic: str, partition: int, cache: Path) -> None:
        self._depot = depot
        self._topic = topic
        self._partition = partition
        self._cache = cache
        self._chain: list[Manifest] = []

    async def from_offset(self, offset: int, records_max: int = 0) -> list[Archived]:
        """The records from an offset to its object's end, at least one, at most `records_max`.

        Raises NotArchived, DamagedArchive or DepotAway.
        """
        return await asyncio.to_thread(self._from_offset, offset, records_max)

    def _from_offset(self, offset: int, records_max: int) -> list[Archived]:
        for attempt in (1, 2):
            if attempt == 2 or not self._chain:
                self._chain = newest(manifests(self._depot, self._topic, self._partition))
            try:
                return self._read(offset, records_max)
            except (DamagedArchive, NotArchived):
                if attempt == 2:
                    raise
        raise NotArchived(self._missing(offset))

    def _read(self, offset: int, records_max: int) -> list[Archived]:
        place = bisect_right(self._chain, offset, key=lambda one: one.first_offset) - 1
        for manifest in self._chain[max(place, 0) : place + 2]:
            if manifest.next_offset > offset:
                path = fetch(self._depot, manifest, self._cache)
                if records := decoded(path, offset, records_max):
                    return records
        raise NotArchived(self._missing(offset))

    def _missing(self, offset: int) -> str:
        return f"offset {offset} of {self._topic}/{self._partition} is not in {self._depot.url}"


def cold_of(settings: Any, topic: str, partition: int) -> Cold | None:
    """The archive of a partition as a process's settings name it, or None where they name none."""
    depot = depot_of(settings)
    return None if depot is None else Cold(depot, topic, partition, cache_of(settings))


def cache_of(settings: Any) -> Path:
    """Where a process keeps what it fetched from a bucket."""
    return settings.home / "archive-cache"
