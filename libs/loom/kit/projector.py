"""Keeps a service's read models in step with a partition of a topic.

1. What a batch writes and the position move in one transaction, by compare-and-set: exactly once,
   and an earlier owner that wakes up writes nothing (`Fenced`).
2. A position lies on a command's boundary, so a command is projected whole or not at all.
3. A record that cannot be projected is tried again, then parked as a dead letter together with the
   position; the records of its stream that follow are parked behind it. Nothing is skipped.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import psycopg
import structlog

from loom.decider import Position, Recorded, Statement
from loom.log.judge import START, Base, Kind
from loom.log.reader import Judged, LogAway, Reader
from loom.log.topics import Bus
from loom.store import Connection, Fenced, Store, run_all

__all__ = ["Projector"]

ATTEMPTS_MAX = 3
Project = Callable[[Recorded], list[Statement]]


class Parked(NamedTuple):
    """A record that waits as a dead letter."""

    record: Judged
    stream: str
    type: str
    reason: str
    attempts: int


class Projector:
    """One read model's follower of one partition."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        topic: str,
        partition: int,
        project: Project,
        name: str = "read-model",
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.base = START
        self.blocked: set[str] = set()
        """Streams with a dead letter: their later records wait behind it."""
        self._store = store
        self._bus = bus
        self._project = project
        self._name = name
        self._epoch = 0
        self._moved = asyncio.Condition()
        self._log = structlog.get_logger().bind(projection=name, topic=topic, partition=partition)

    async def run(self) -> None:
        """Follow for ever; ends by raising Fenced, LogDiverged or Undecodable."""
        while True:
            try:
                await self._follow()
            except (psycopg.OperationalError, LogAway) as error:
                self._log.warning("store away, trying again", reason=str(error).strip())
                await asyncio.sleep(1)

    async def reached(self, position: Position, timeout_s: float) -> bool:
        """Wait until the read model contains a position; False when it does not in time."""
        try:
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(
                    lambda: (
                        (self.base.incarnation, self.base.offset)
                        > (position.incarnation, position.offset)
                    )
                )
        except TimeoutError:
            return False
        return True

    async def _follow(self) -> None:
        stored, self._epoch = await self._store.claim_position(
            self._name, self.topic, self.partition, START.text()
        )
        self.base = Base.parse(stored)
        await self._load_blocked()
        reader = Reader(self._bus, self.topic, self.partition, self.base)
        await reader.start()
        try:
            waiting: list[Judged] = []
            while True:
                records = await reader.batch(wait_ms=2000)
                waiting += [record for record in records if record.verdict.kind == Kind.EVENT]
                if reader.base == self.base:
                    continue
                ready = [record for record in waiting if record.offset < reader.base.offset]
                await self._apply(reader, ready, reader.base)
                waiting = waiting[len(ready) :]
        finally:
            await reader.stop()

    async def _apply(self, reader: Reader, records: list[Judged], base: Base) -> None:
        try:
            await self._apply_together(reader, records, base)
        except (Fenced, psycopg.OperationalError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong is one record's fault
            self._log.warning("batch refused, taking records one by one", reason=repr(error))
            await self._apply_singly(reader, records, base)
        self.base = base
        async with self._moved:
            self._moved.notify_all()

    async def _apply_together(self, reader: Reader, records: list[Judged], base: Base) -> None:
        if self.blocked:
            raise LookupError("streams wait behind dead letters")
        statements: list[Statement] = []
        for record in records:
            statements += self._project(reader.recorded(record))
        async with self._store.connection() as connection:
            await run_all(connection, statements)
            await self._move(connection, base)

    async def _apply_singly(self, reader: Reader, records: list[Judged], base: Base) -> None:
        async with self._store.connection() as connection:
            for record in records:
                recorded = reader.recorded(record)
                if recorded.stream in self.blocked:
                    reason = "waits behind an earlier dead letter of its stream"
                    await self._park(
                        connection, Parked(record, recorded.stream, recorded.type, reason, 0)
                    )
                    continue
                parked = await self._try(connection, record, recorded)
                if parked is not None:
                    self.blocked.add(recorded.stream)
                    await self._park(connection, parked)
            await self._move(connection, base)

    async def _try(
        self, connection: Connection, record: Judged, recorded: Recorded
    ) -> Parked | None:
        reason = ""
        for _ in range(ATTEMPTS_MAX):
            try:
                async with connection.transaction():
                    await run_all(connection, self._project(recorded))
            except psycopg.OperationalError:
                raise
            except Exception as error:  # noqa: BLE001 - parked with its reason
                reason = f"{type(error).__name__}: {error}"[:1000]
            else:
                return None
        return Parked(record, recorded.stream, recorded.type, reason, ATTEMPTS_MAX)

    async def _park(self, connection: Connection, parked: Parked) -> None:
        self._log.error(
            "dead letter", offset=parked.record.offset, stream=parked.stream, reason=parked.reason
        )
        await connection.execute(
            "INSERT INTO dead_letters (projection, topic, partition, record_offset, stream, type, "
            "reason, attempts) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (
                self._name,
                self.topic,
                self.partition,
                parked.record.offset,
                parked.stream,
                parked.type,
                parked.reason,
                parked.attempts,
            ),
        )

    async def _move(self, connection: Connection, base: Base) -> None:
        step = (self.base.text(), base.text())
        await Store.move_position(
            connection, self._name, self.topic, self.partition, step, self._epoch
        )

    async def _load_blocked(self) -> None:
        async with self._store.connection() as connection:
            rows = await (
                await connection.execute(
                    "SELECT DISTINCT stream FROM dead_letters WHERE projection = %s "
                    "AND topic = %s AND partition = %s",
                    (self._name, self.topic, self.partition),
                )
            ).fetchall()
        self.blocked = {row["stream"] for row in rows}
