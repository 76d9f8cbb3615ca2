"""Rules, holds and archived ranges of all organisations, as `loomos.loomdb` tells them.

1. `catch_up` returns when everything is folded that the log held when it was called: a hold that
   was acknowledged before counts.
"""

import contextlib
import time
from typing import Any, NamedTuple

from loom.log.judge import Kind
from loom.log.reader import Judged, Reader
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.evolve.retention import evolve
from loomos.loomdb.state import Retention

__all__ = ["Ledger", "Run"]


class Run(NamedTuple):
    """What a round is for."""

    topic: str = ""
    partition: int = -1
    young_too: bool = False
    ordered: bool = False
    """True where an operator asked."""

    def means(self, topic: str, partition: int) -> bool:
        """Whether a partition is meant."""
        return self.topic in ("", topic) and self.partition in (-1, partition)


class Ledger:
    """Rules, holds and ranges of all organisations, folded from `loomos.loomdb`."""

    def __init__(self, settings: Any) -> None:
        self.state = Retention()
        self.wanted: list[Run] = []
        """What operators asked for and no round has done yet."""
        self._readers = [
            Reader(settings, "loomos.loomdb", partition) for partition in range(settings.partitions)
        ]

    async def start(self) -> None:
        """Connect; raises LogAway."""
        for reader in self._readers:
            await reader.start()

    async def stop(self) -> None:
        """Disconnect."""
        for reader in self._readers:
            with contextlib.suppress(Exception):
                await reader.stop()

    async def catch_up(self) -> None:
        """Fold what the log holds now."""
        for reader in self._readers:
            end = await reader.end()
            while reader.next_offset < end:
                self._fold(reader, await reader.batch())

    async def listen(self, seconds: float) -> None:
        """Fold what comes, until somebody wants a round or the time is over."""
        until = time.monotonic() + seconds
        while not self.wanted and time.monotonic() < until:
            for reader in self._readers:
                self._fold(reader, await reader.batch(wait_ms=1000))

    def _fold(self, reader: Reader, records: list[Judged]) -> None:
        for record in records:
            if record.verdict.kind != Kind.EVENT:
                continue
            event = reader.recorded(record).event
            evolve(self.state, event)
            if isinstance(event, pb.ArchiveRequested):
                self.wanted.append(Run(event.topic, event.partition, event.young_too, True))
