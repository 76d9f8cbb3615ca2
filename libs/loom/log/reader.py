"""Reads one partition, judged, from a base on.

1. A reader starts at offset 0 or at a base: the place right behind a valid record that closed its
   command. The record before the base is read again and must be that one, else the log went
   backwards or regrew: `LogDiverged` names the partition, and nobody reads on in silence. A live
   reader looks again whenever its connection to a broker broke, at every marker that it meets, and
   when nothing came for a while: a log can regrow under it while the broker is away.
2. Offsets may be sparse. A void record is handed out too, marked as such.
3. A valid record that cannot be decoded stops the reader (`catalogue.Undecodable`).
4. What Kafka does not hold any more is read from the archive, judged like the rest. Of a record
   that was deleted there by policy only what states are folded from is left (`DELETED`).
"""

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from loom.decider import Position, Recorded
from loom.log import envelope
from loom.log.endings import end_consumer
from loom.log.envelope import Sealed
from loom.log.judge import START, Base, Headers, Judge, Kind, digest, filled, stamp_of
from loom.log.judged import Judged, stored
from loom.log.topics import Bus, connection

if TYPE_CHECKING:
    # Slow to import: few readers meet the archive.
    from loom.log.cold import Cold
    from loom.log.parquet import Archived

__all__ = [
    "DELETED",
    "IDLE_MS",
    "Judged",
    "LogAway",
    "LogDiverged",
    "Reader",
    "follow",
    "read_all",
    "recorded",
]

BATCH_RECORDS_MAX = 250
"""What stays in a processor's near memory until it is folded, and its loop waits for."""
FETCH_WAIT_MS = 10_000
"""How long the broker holds a poll that finds nothing; a record ends it at once."""
LOOK_MS = 1000
"""After this the client looks by itself whether it has something to ask for."""
IDLE_MS = 5000
"""What a follower waits who has nothing else to do: a record wakes him at once."""
CHECK_S = 60.0
DELETED = "deleted by policy"


class LogDiverged(Exception):
    """The log is not the one that the stored base speaks of."""


class LogAway(ConnectionError):
    """Kafka cannot be reached now; whoever reads tries again."""


class Seen(NamedTuple):
    """The last valid record that a reader handed out."""

    offset: int
    appended_ms: int
    digest: bytes


class Reader:
    """Follows one partition; not shared between tasks."""

    def __init__(
        self,
        bus: Bus,
        topic: str,
        partition: int,
        base: Base = START,
        fetch_wait_ms: int = FETCH_WAIT_MS,
    ) -> None:
        """`fetch_wait_ms` is shorter for who must know soon that nothing new is there."""
        self.topic = topic
        self.partition = partition
        self.judge = Judge(base)
        self.base = base
        """The base behind the last valid command that was handed out."""
        self._tp = TopicPartition(topic, partition)
        self.next_offset = base.offset
        self.expected: deque[Sealed] = deque()
        """What this process sent itself: a record of the same bytes has the same digest."""
        self._seen: Seen | None = None
        self._suspicious = False
        self._check_at = float("inf")
        self._at_end_s = 0.0
        """When a check last found that nothing lies ahead, seconds since 1970."""
        self._bus = bus
        self._fetch_wait_ms = fetch_wait_ms
        self._cold: Cold | None = None
        self._archived: deque[Archived] = deque()
        """Read from the archive and not handed out yet."""
        self._consumer = AIOKafkaConsumer(
            **connection(bus),
            client_id="loomos-reader",
            group_id=None,
            key_deserializer=stored,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="none",
            fetch_max_wait_ms=fetch_wait_ms,
            # What it waits for wakes it, nearly always; else it would look five times a second.
            consumer_timeout_ms=LOOK_MS,
            max_partition_fetch_bytes=8 * 1024 * 1024,
            fetch_max_bytes=16 * 1024 * 1024,
        )

    async def start(self) -> int:
        """Connect, check that the log still holds the base, and give where it ends now.

        Raises LogDiverged or LogAway.
        """
        try:
            await self._consumer.start()
            self._watch_connections()
            self._consumer.assign([self._tp])
            # Asked before anything is polled: on one connection a question waits for the poll.
            end = await self.end()
            await self._check(end)
            return end
        except BaseException as error:
            # Who starts again makes a new reader: this one's connections end here.
            with contextlib.suppress(Exception):
                await end_consumer(self._consumer)
            if isinstance(error, KafkaError | TimeoutError):
                raise LogAway(f"{self.topic}/{self.partition}: {error!r}") from error
            raise

    async def stop(self) -> None:
        """Disconnect."""
        await end_consumer(self._consumer)

    async def end(self) -> int:
        """The offset behind the last record that the broker has now; raises LogAway.

        It may take as long as an idle poll; who has just started has it from there.
        """
        try:
            return (await self._consumer.end_offsets([self._tp]))[self._tp]
        except (KafkaError, TimeoutError) as error:
            raise LogAway(f"{self.topic}/{self.partition}: {error!r}") from error

    async def batch(
        self, wait_ms: int = 1000, records_max: int = BATCH_RECORDS_MAX
    ) -> list[Judged]:
        """The next records, at most `records_max`; empty when none came within `wait_ms`.

        Raises LogDiverged or LogAway.
        """
        try:
            return await self._batch(wait_ms, records_max)
        except (KafkaError, TimeoutError) as error:
            raise LogAway(f"{self.topic}/{self.partition}: {error!r}") from error

    async def _batch(self, wait_ms: int, records_max: int) -> list[Judged]:
        if self._suspicious or time.monotonic() > self._check_at:
            await self._check()
        if self._archived:
            return self._from_archive(records_max)
        try:
            found = await self._consumer.getmany(
                self._tp, timeout_ms=wait_ms, max_records=records_max
            )
        except OffsetOutOfRangeError:
            self._archived.extend(await self._cold_records(self.next_offset))
            return self._from_archive(records_max)
        if self._suspicious:
            # The connection broke meanwhile: what came may belong to a log that regrew.
            await self._check()
            return []
        judged = self._judge(found.get(self._tp, ()))
        if judged:
            self._suspicious |= any(one.verdict.kind is Kind.MARKER for one in judged)
            self._check_at = time.monotonic() + CHECK_S
        return judged

    def _judge(self, records: Iterable[Any]) -> list[Judged]:
        admit, expected = self.judge.admit, self.expected
        judged: list[Judged] = []
        for record in records:
            offset, key, value, headers = record.offset, record.key, record.value, record.headers
            if offset < self.next_offset:
                continue
            self.next_offset = offset + 1
            mark = b""
            if expected and same(expected[0], key, headers, value):
                mark = expected.popleft().digest
            verdict = admit(key, headers, value, mark)
            judged.append(filled(Judged, (offset, record.timestamp, key, value, headers, verdict)))
        seen = next((one for one in reversed(judged) if one.verdict.valid), None)
        if seen is not None:
            self._seen = Seen(seen.offset, seen.timestamp_ms, seen.verdict.digest)
        closing = next((one for one in reversed(judged) if one.verdict.closes), None)
        if closing is not None:
            self.base = closing.base
        return judged

    def _from_archive(self, records_max: int) -> list[Judged]:
        """The next records of those that the archive gave."""
        count = min(records_max, len(self._archived))
        records = [self._archived.popleft() for _ in range(count)]
        judged: list[Judged] = []
        for deleted, found in itertools.groupby(records, key=lambda record: record.deleted):
            run = list(found)
            judged += map(self._judge_deleted, run) if deleted else self._judge(run)
        for record, one in zip(records, judged, strict=True):
            if int(one.verdict.kind) != record.kind:
                raise self._diverged(f"the archive's record at offset {one.offset} is another one")
        if not self._archived:
            self._consumer.seek(self._tp, self.next_offset)
        return judged

    def _judge_deleted(self, record: "Archived") -> Judged:
        """What is left of a deleted record; it counts by its stamp and its original digest."""
        verdict = self.judge.admit(record.key, record.headers, record.value, record.digest)
        verdict = verdict._replace(reason=DELETED)
        one = Judged(
            record.offset, record.timestamp, record.key, record.value, record.headers, verdict
        )
        self.next_offset = record.offset + 1
        if verdict.valid:
            self._seen = Seen(record.offset, record.timestamp, verdict.digest)
        if verdict.closes:
            self.base = one.base
        return one

    async def _cold_records(self, offset: int, records_max: int = 0) -> "list[Archived]":
        """Archived records from an offset on that Kafka does not hold any more."""
        from loom.log import cold, depot, parquet

        begins = (await self._consumer.beginning_offsets([self._tp]))[self._tp]
        if offset >= begins:
            raise self._diverged(f"offset {offset} is not in the log any more")
        self._cold = self._cold or cold.cold_of(self._bus, self.topic, self.partition)
        if self._cold is None:
            raise self._diverged(
                f"the log begins at offset {begins} now, and no archive is known of what was before"
            )
        try:
            return await self._cold.from_offset(offset, records_max)
        except (cold.NotArchived, parquet.DamagedArchive) as error:
            raise self._diverged(str(error)) from error
        except depot.DepotAway as error:
            raise LogAway(f"{self.topic}/{self.partition}: {error}") from error

    async def events(self) -> AsyncIterator[tuple[Recorded, Base]]:
        """Valid events for ever, each with the base behind the last complete command."""
        base = self.base
        while True:
            for record in await self.batch(IDLE_MS):
                if record.verdict.closes:
                    base = record.base
                if record.verdict.kind == Kind.EVENT:
                    yield self.recorded(record), base

    def recorded(self, record: Judged) -> Recorded:
        """A valid event, decoded."""
        return recorded(record, self.topic, self.partition)

    def lag_s(self) -> float:
        """Seconds since the reader was last known to stand at the log's end; 0 while it does."""
        highwater = self._consumer.highwater(self._tp)
        polled_ms = self._consumer.last_poll_timestamp(self._tp)
        if highwater is None or polled_ms is None or self.next_offset < highwater:
            return float("inf")
        known_s = max((polled_ms + self._fetch_wait_ms) / 1000, self._at_end_s)
        return max(0.0, time.time() - known_s)

    async def _check(self, end: int | None = None) -> None:
        """Read the last valid record again and compare; go on where the reader stood."""
        self._suspicious = False
        self._check_at = time.monotonic() + CHECK_S
        if self.next_offset > 0:
            # A check waits for the poll that is on its way, so it counts as a poll itself.
            asked_s = time.time()
            if end is None:
                end = await self.end()
            if end < self.next_offset:
                raise self._diverged(
                    f"the log ends at {end}, this reader was at {self.next_offset}"
                )
            if end == self.next_offset:
                self._at_end_s = asked_s
        if self._seen is not None or self.base.offset > 0:
            offset = self.base.offset - 1 if self._seen is None else self._seen.offset
            found = await self._record_at(offset)
            if found.offset != offset or not self._known(found):
                raise self._diverged(
                    f"the record at offset {offset} is not the one that was read before"
                )
        self._consumer.seek(self._tp, self.next_offset)

    def _known(self, found: Any) -> bool:
        """Whether this is the record that was seen last, or that the stored base speaks of."""
        erased = getattr(found, "deleted", False)
        mark = found.digest if erased else digest(found.key, found.headers, found.value)
        if self._seen is not None:
            return (found.timestamp, mark) == (self._seen.appended_ms, self._seen.digest)
        stamp, base = stamp_of(found.headers), self.base
        if stamp is None or found.timestamp != base.appended_ms:
            return False
        # A marker's claim is 128 random bits; what it chains to is not in its own bytes.
        return (stamp.incarnation, stamp.epoch, stamp.claim, stamp.n) == (
            base.incarnation,
            base.epoch,
            base.claim,
            base.n,
        ) and (base.n == 0 or mark == base.before)

    async def _record_at(self, offset: int) -> Any:
        self._consumer.seek(self._tp, offset)
        async with asyncio.timeout(30):
            while True:
                try:
                    found = await self._consumer.getmany(self._tp, timeout_ms=50, max_records=1)
                except OffsetOutOfRangeError:
                    return (await self._cold_records(offset, 1))[0]
                if found.get(self._tp):
                    return found[self._tp][0]
                # Where the place changed while an answer came, the client forgets to ask again.
                fetcher: Any = self._consumer._fetcher
                fetcher._notify(fetcher._wait_consume_future)

    def _watch_connections(self) -> None:
        """Be told when a broker's connection ends; the client offers no public way to ask."""
        client = self._consumer._client
        ended = client._on_connection_closed

        def noticed(conn: Any, reason: Any) -> None:
            self._suspicious = True
            ended(conn, reason)

        client._on_connection_closed = noticed

    def _diverged(self, what: str) -> LogDiverged:
        return LogDiverged(
            f"partition {self.topic}/{self.partition}: {what}; stop, and restore the log or this "
            "reader's position"
        )


def same(sealed: Sealed, key: bytes | None, headers: Headers, value: bytes | None) -> bool:
    """True where the stored bytes are those that were sent."""
    return sealed.headers == headers and sealed.value == value and sealed.key == key


async def follow(
    bus: Bus, topic: str, partition: int, base: Base = START
) -> AsyncIterator[tuple[Recorded, Base]]:
    """Valid events of a partition from a base on, live, until the caller stops iterating."""
    reader = Reader(bus, topic, partition, base)
    await reader.start()
    try:
        async for found in reader.events():
            yield found
    finally:
        await reader.stop()


def recorded(record: Judged, topic: str, partition: int) -> Recorded:
    """A valid event of a partition, decoded."""
    stamp = record.verdict.stamp
    assert stamp is not None
    place = (topic, partition, record.offset, stamp.incarnation)
    position = filled(Position, place)
    found = envelope.read(record.headers, record.value, record.key, position, stamp.epoch)
    return found._replace(deleted=True) if record.verdict.reason == DELETED else found


async def read_all(bus: Bus, topic: str, partition: int = 0, base: Base = START) -> list[Judged]:
    """Every record from a base to where the log ends now, void ones too."""
    reader = Reader(bus, topic, partition, base)
    end = await reader.start()
    found: list[Judged] = []
    try:
        while reader.next_offset < end:
            found += await reader.batch()
    finally:
        await reader.stop()
    return found
