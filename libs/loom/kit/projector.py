"""Keeps a service's read models in step with a partition of a topic.

1. What a batch writes and the position move in one transaction, by compare-and-set: exactly once,
   and an earlier owner that wakes up writes nothing (`Fenced`). The position moves first: who waits
   for its row (a rebuild holds it while it swaps the tables) has written nothing yet.
2. A position lies on a command's boundary, so a command is projected whole or not at all.
3. A record that cannot be projected is tried again, then parked as a dead letter together with the
   position; the records of its stream that follow are parked behind it. Nothing is skipped. A
   notice goes to `loomos.dead-letters` and a counter rises, which an alert watches.
4. While the database takes one batch the next is read and `project`ed; it is bounded.
5. `redeem` takes parked records back in the log's order, from whatever process it is called.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import psycopg
import structlog
from prometheus_client import Counter

from loom.decider import Position, Recorded, Statement
from loom.kit.bulk import run_all
from loom.log.judge import START, Base, Kind
from loom.log.letters import send_notices
from loom.log.reader import IDLE_MS, Judged, LogAway, Reader
from loom.log.topics import Bus, KafkaError
from loom.store import Connection, Fenced, Store

__all__ = ["Projector"]

ATTEMPTS_MAX = 3
SLICE_RECORDS = 250
"""Between two slices the loop sees what the database answered."""
EVENTS_MAX = 8000
"""So many may wait for the database while it is at work."""
PARKED = Counter(
    "loomos_dead_letters", "Records that a projection parked.", ("topic", "projection")
)
Project = Callable[[Recorded], list[Statement]]


class Prepared(NamedTuple):
    """An event with what `project` makes of it; None where it raised."""

    recorded: Recorded
    statements: list[Statement] | None


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

    async def redeem(self, stream: str = "") -> int:
        """Project what is parked, of one stream or of all, and give how many records it were.

        What still cannot be projected stays parked, and with it what follows it in its stream. The
        projection stands still meanwhile.
        """
        async with self._store.connection() as connection:
            await connection.execute(
                "SELECT FROM positions WHERE projection = %s AND topic = %s AND partition = %s "
                "FOR UPDATE",
                self._place,
            )
            offsets = await self._waiting(connection, stream)
            return await self._redeem(connection, await self._read(offsets))

    async def _read(self, offsets: Collection[int]) -> list[Recorded]:
        """The records at these offsets, from the log as it is judged from its beginning."""
        found: list[Recorded] = []
        if not offsets:
            return found
        reader = Reader(self._bus, self.topic, self.partition)
        await reader.start()
        try:
            while len(found) < len(offsets):
                for record in await reader.batch():
                    if record.offset in offsets:
                        found.append(reader.recorded(record))
        finally:
            await reader.stop()
        return found

    async def _redeem(self, connection: Connection, records: list[Recorded]) -> int:
        stuck: set[str] = set()
        done = 0
        for recorded in records:
            if recorded.stream in stuck:
                continue
            reason = await self._try(connection, recorded)
            if reason:
                stuck.add(recorded.stream)
                self._log.error("still a dead letter", offset=recorded.position.offset)
                continue
            await connection.execute(
                "DELETE FROM dead_letters WHERE projection = %s AND topic = %s "
                "AND partition = %s AND record_offset = %s",
                (*self._place, recorded.position.offset),
            )
            done += 1
        return done

    @property
    def _place(self) -> tuple[str, str, int]:
        return self._name, self.topic, self.partition

    async def _follow(self) -> None:
        stored, self._epoch = await self._store.claim_position(*self._place, START.text())
        async with self._store.connection() as connection:
            self.blocked = set((await self._waiting(connection)).values())
        await self._stand(Base.parse(stored))
        await self._notice()
        reader = Reader(self._bus, self.topic, self.partition, self.base)
        await reader.start()
        applying: asyncio.Task[None] | None = None
        try:
            taken = self.base
            waiting: list[Prepared] = []
            while True:
                wait_ms = IDLE_MS if applying is None else 0
                records = await reader.batch(wait_ms, SLICE_RECORDS)
                waiting += self._prepared(reader, records)
                if applying is not None:
                    if records and len(waiting) < EVENTS_MAX and not applying.done():
                        # The database has its turn: what has come meanwhile is prepared.
                        await asyncio.sleep(0)
                        continue
                    await applying
                    applying = None
                if reader.base == taken:
                    continue
                taken = reader.base
                ready = len(waiting)
                # Only the last command may be open.
                while ready and waiting[ready - 1].recorded.position.offset >= taken.offset:
                    ready -= 1
                applying = asyncio.create_task(self._apply(waiting[:ready], taken))
                waiting = waiting[ready:]
        finally:
            if applying is not None:
                applying.cancel()
                await asyncio.gather(applying, return_exceptions=True)
            await reader.stop()

    def _prepared(self, reader: Reader, records: Iterable[Judged]) -> list[Prepared]:
        found = []
        for record in records:
            if record.verdict.kind == Kind.EVENT:
                recorded = reader.recorded(record)
                try:
                    found.append(Prepared(recorded, self._project(recorded)))
                except Exception:  # noqa: BLE001 - tried again by itself, then parked with its reason
                    found.append(Prepared(recorded, None))
        return found

    async def _stand(self, base: Base) -> None:
        self.base = base
        async with self._moved:
            self._moved.notify_all()

    async def _apply(self, events: list[Prepared], base: Base) -> None:
        try:
            await self._apply_together(events, base)
        except (Fenced, psycopg.OperationalError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever is wrong is one record's fault
            self._log.warning("batch refused, taking records one by one", reason=repr(error))
            await self._apply_singly([one.recorded for one in events], base)
        await self._stand(base)
        if self.blocked:
            await self._notice()

    async def _notice(self) -> None:
        """Tell of what is parked and was not told of yet, by an earlier owner either."""
        query = (
            "SELECT projection, topic, partition, record_offset, stream, type, reason, attempts "
            "FROM dead_letters WHERE projection = %s AND topic = %s AND partition = %s "
            "AND NOT noticed ORDER BY record_offset FOR UPDATE SKIP LOCKED"
        )
        try:
            async with self._store.connection() as connection:
                rows = await (await connection.execute(query, self._place)).fetchall()
                if not rows:
                    return
                await send_notices(self._bus, rows)
                PARKED.labels(self.topic, self._name).inc(len(rows))
                await connection.execute(
                    "UPDATE dead_letters SET noticed = true WHERE projection = %s AND topic = %s "
                    "AND partition = %s AND record_offset = ANY(%s)",
                    (*self._place, [row["record_offset"] for row in rows]),
                )
        except KafkaError as error:
            self._log.warning("nobody told of dead letters", reason=repr(error))

    async def _apply_together(self, events: list[Prepared], base: Base) -> None:
        async with self._store.connection() as connection:
            await self._move(connection, base)
            statements: list[Statement] = []
            for recorded, made in events:
                if self.blocked and await self._held_back(connection, recorded):
                    continue
                statements += self._project(recorded) if made is None else made
            await run_all(connection, statements)

    async def _apply_singly(self, records: list[Recorded], base: Base) -> None:
        async with self._store.connection() as connection:
            await self._move(connection, base)
            for recorded in records:
                if await self._held_back(connection, recorded):
                    continue
                reason = await self._try(connection, recorded)
                if reason:
                    await self._park(connection, recorded, reason, ATTEMPTS_MAX)
                    self.blocked.add(recorded.stream)

    async def _held_back(self, connection: Connection, recorded: Recorded) -> bool:
        """Park a record whose stream waits behind a dead letter."""
        if recorded.stream not in self.blocked:
            return False
        await self._park(connection, recorded, "waits behind a dead letter of its stream", 0)
        return True

    async def _try(self, connection: Connection, recorded: Recorded) -> str:
        """Project one record; why it cannot be done, or ""."""
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
                return ""
        return reason

    async def _park(
        self, connection: Connection, recorded: Recorded, reason: str, attempts: int
    ) -> None:
        offset = recorded.position.offset
        self._log.error("dead letter", offset=offset, stream=recorded.stream, reason=reason)
        await connection.execute(
            "INSERT INTO dead_letters (projection, topic, partition, record_offset, stream, type, "
            "reason, attempts) VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (*self._place, offset, recorded.stream, recorded.type, reason, attempts),
        )

    async def _move(self, connection: Connection, base: Base) -> None:
        step = (self.base.text(), base.text())
        await Store.move_position(connection, *self._place, step, self._epoch)
        if self.blocked:
            # Somebody may have redeemed them meanwhile; nobody else adds to them.
            self.blocked = set((await self._waiting(connection)).values())

    async def _waiting(self, connection: Connection, stream: str = "") -> dict[int, str]:
        """The parked records by offset, each with its stream."""
        rows = await (
            await connection.execute(
                "SELECT record_offset, stream FROM dead_letters WHERE projection = %s "
                "AND topic = %s AND partition = %s AND %s IN ('', stream) ORDER BY record_offset",
                (*self._place, stream),
            )
        ).fetchall()
        return {row["record_offset"]: row["stream"] for row in rows}
