"""Rules, holds and archived ranges of all organisations, as `loomos.loomdb` tells them.

1. `catch_up` returns when everything is folded that the log held when it was called: a hold that
   was acknowledged before counts.
"""

import contextlib
import time
from typing import Any, NamedTuple

from loom.log.judge import Kind
from loom.log.reader import Judged, Reader
from loomos.loomdb.evolve.retention import evolve
from loomos.loomdb.state import Retention

__all__ = ["Ledger", "Run"]

POLL_MS = 1000


class Run(NamedTuple):
    """What a round is for."""

    topic: str = ""
    partition: int = -1
    young_too: bool = False
    id: str = ""
    """The operator's request; "" for a round by the clock."""

    def means(self, topic: str, partition: int) -> bool:
        """Whether a partition is meant."""
        return self.topic in ("", topic) and self.partition in (-1, partition)


class Ledger:
    """Rules, holds and ranges of all organisations, folded from `loomos.loomdb`."""

    def __init__(self, settings: Any) -> None:
        self.state = Retention()
        self._readers = [
            # It asks where the log ends, again and again: no idle poll may hold that up for long.
            Reader(settings, "loomos.loomdb", partition, fetch_wait_ms=POLL_MS)
            for partition in range(settings.partitions)
        ]

    @property
    def wanted(self) -> Run | None:
        """What operators asked for first of all that was not done yet, by any process."""
        for one in self.state.runs.values():
            return Run(one.topic, one.partition, one.young_too, one.run_id)
        return None

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
        while self.wanted is None and time.monotonic() < until:
            for reader in self._readers:
                self._fold(reader, await reader.batch(POLL_MS))

    def _fold(self, reader: Reader, records: list[Judged]) -> None:
        for record in records:
            if record.verdict.kind != Kind.EVENT:
                continue
            evolve(self.state, reader.recorded(record).event)
