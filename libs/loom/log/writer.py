"""The one writer of a partition: claims it, appends commands, confirms them by reading back.

1. A claim is a marker with the log's epoch + 1 and 128 fresh random bits. Whoever reads another
   marker of that epoch first has lost (`Deposed`).
2. Nothing is answered by what the producer says. A command is confirmed when its records, and all
   of this claim's before them, were read back valid; matched by number and digest, not by offset.
3. Any other valid record of this claim, a foreign marker, an own record read as void that is no
   copy of a confirmed one, a failed send, or no read-back within the deadline is `Doubt`: the
   writer is dropped with all it knew, and a new one claims and refolds.
4. A command's records travel in one record batch. A number handed to the producer is never used
   again. The producer belongs to the claim and is dropped without waiting for it.
"""

import asyncio
import contextlib
import secrets
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import structlog
from aiokafka import AIOKafkaProducer, codec
from aiokafka.errors import KafkaError
from aiokafka.record import default_records

from loom.log import envelope
from loom.log.clock import now_us
from loom.log.endings import end_producer
from loom.log.envelope import Draft, Sealed
from loom.log.judge import ZERO_DIGEST, Base, Kind, Stamp
from loom.log.reader import Judged, Reader
from loom.log.topics import MESSAGE_BYTES_MAX, Bus, connection

__all__ = [
    "BATCH_BYTES_MAX",
    "COMMAND_BYTES_MAX",
    "Appended",
    "Deposed",
    "Doubt",
    "Settle",
    "Writer",
]

BATCH_BYTES_MAX = 900_000
"""Commands travel together up to here; one that is larger travels alone."""
COMMAND_BYTES_MAX = MESSAGE_BYTES_MAX - 100_000
"""Counted before compression, and generously."""
READ_BACK_S = 10.0
"""How long a sent record may stay unread before it is in doubt."""
IDLE_WAIT_MS = 1000
"""How long an idle writer waits for a record; one that comes ends the wait at once."""


# The client asks its codec for level 9, meaning Kafka's default; to this codec it means the slow
# search, twenty times slower for 2 % of size, and no setting reaches it.
LZ4_FAST = 0
sys.modules[default_records.DefaultRecordBatchBuilder.__module__].lz4_encode = partial(  # pyright: ignore[reportAttributeAccessIssue]
    codec.lz4_encode, level=LZ4_FAST
)


class Doubt(Exception):
    """What the log holds is not known any more; claim again and refold."""


class Deposed(Doubt):
    """Another claim is valid now."""


Settle = Callable[["int | Doubt"], None]
"""Told once of a command's fate: the offset of its last record, or why it is not known."""


class Appended(NamedTuple):
    """One command on its way; its records travel in one batch."""

    sealed: list[Sealed]
    settle: Settle


class Writer:
    """One claim on one partition; after a Doubt it is of no further use."""

    def __init__(self, bus: Bus, topic: str, partition: int, owner: str, base: Base) -> None:
        self.topic = topic
        self.partition = partition
        self.owner = owner
        self.reader = Reader(bus, topic, partition, base)
        self.claim = secrets.token_bytes(16)
        self.epoch = 0
        self.restores = False
        """Whether its claim begins the log's next incarnation: an operator's, after a loss."""
        self.voids = 0
        """Records of this partition that were void since the claim began."""
        self.flying = 0
        """Batches on their way to the broker."""
        self._landed = asyncio.Event()
        self._bus = bus
        self._producer: AIOKafkaProducer | None = None
        self._n = 0
        self._before = ZERO_DIGEST
        self._sent: deque[tuple[Sealed, Appended | None]] = deque()
        """What is not read back yet, in order; a command stands at its last record."""
        self._oldest = 0.0
        self._failure: Doubt | None = None
        self._log = structlog.get_logger().bind(topic=topic, partition=partition)

    @property
    def idle(self) -> bool:
        """True while all that was appended has been read back."""
        return not self._sent and self._failure is None

    async def begin(self, heard: Callable[[list[Judged]], Awaitable[None]]) -> None:
        """Read to the end, claim, read to the claim; `heard` gets the records on the way.

        Raises Deposed when another claim won, Doubt when the marker was not read in time, and
        LogDiverged when the log is not the base's.
        """
        end = await self.reader.start()
        while self.reader.next_offset < end:
            await heard(await self.reader.batch())
        self._producer = AIOKafkaProducer(
            **connection(self._bus),
            client_id=f"loomos-writer-{self.owner}",
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            max_batch_size=MESSAGE_BYTES_MAX,
            max_request_size=MESSAGE_BYTES_MAX + 100_000,
            linger_ms=0,
            request_timeout_ms=int(READ_BACK_S * 1000),
        )
        try:
            async with asyncio.timeout(READ_BACK_S):
                await self._producer.start()
        except (KafkaError, TimeoutError) as error:
            raise Doubt(f"the producer cannot start: {error!r}") from error
        await self._mark(heard)

    def append(self, commands: list[tuple[list[Draft], Settle]]) -> list[Appended]:
        """Number and seal the commands' records; `send` must follow with what this returned.

        After a Doubt it raises that, and every command is told.

        Each command is at least one record and at most COMMAND_BYTES_MAX, checked by the caller.
        """
        if self._failure:
            for _, settle in commands:
                settle(self._failure)
            raise self._failure
        incarnation = self.reader.judge.incarnation
        made = []
        for drafts, settle in commands:
            appended = Appended([], settle)
            count = len(drafts)
            for index, record in enumerate(drafts, start=1):
                self._n += 1
                stamp = Stamp(
                    Kind.EVENT,
                    incarnation,
                    self.epoch,
                    self.claim,
                    self._n,
                    index,
                    count,
                    self._before,
                )
                sealed = envelope.seal(record, stamp)
                self._before = sealed.digest
                appended.sealed.append(sealed)
                self.reader.expected.append(sealed)
                self._sent.append((sealed, appended if index == count else None))
            made.append(appended)
        return made

    async def send(self, commands: list[Appended]) -> None:
        """Hand what was appended to the producer, whole commands to a batch; waits for its room."""
        batch: list[Sealed] = []
        size = 0
        for command in commands:
            grown = sum(record.size for record in command.sealed)
            if batch and size + grown > BATCH_BYTES_MAX:
                await self._send_batch(batch)
                batch, size = [], 0
            batch += command.sealed
            size += grown
        await self._send_batch(batch)

    async def land(self) -> None:
        """Wait until one of the batches that are on their way arrived, or failed."""
        self._landed.clear()
        await self._landed.wait()

    async def confirm(self) -> None:
        """Read back for ever, resolving what was appended; ends only by raising Doubt."""
        try:
            while True:
                records = await self.reader.batch(wait_ms=250 if self._sent else IDLE_WAIT_MS)
                for record in records:
                    self._hear(record)
                if self._failure:
                    raise self._failure
                if not self._sent:
                    self._oldest = 0.0
                elif records or not self._oldest:
                    self._oldest = time.monotonic()
                elif time.monotonic() - self._oldest > READ_BACK_S:
                    raise Doubt(f"not read back within {READ_BACK_S:.0f} s")
        except Exception as error:
            self.fail(error if isinstance(error, Doubt) else Doubt(repr(error)))
            raise

    def fail(self, doubt: Doubt) -> None:
        """Everything unconfirmed is in doubt from now on."""
        self._failure = self._failure or doubt
        while self._sent:
            appended = self._sent.popleft()[1]
            if appended is not None:
                appended.settle(self._failure)

    async def close(self) -> None:
        """Drop the claim, and what was not sent of it."""
        self.fail(Doubt("the writer was closed"))
        if self._producer is not None:
            await end_producer(self._producer)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.reader.stop(), 5)

    async def _mark(self, heard: Callable[[list[Judged]], Awaitable[None]]) -> None:
        judge = self.reader.judge
        self.epoch = judge.epoch + 1
        incarnation = judge.incarnation + self.restores
        stamp = Stamp(Kind.MARKER, incarnation, self.epoch, self.claim, 0, 1, 1, ZERO_DIGEST)
        await self._send_batch([envelope.marker(stamp, self.owner, now_us())])
        deadline = time.monotonic() + READ_BACK_S
        while judge.claim != self.claim:
            if time.monotonic() > deadline:
                raise Doubt(f"own marker not read back within {READ_BACK_S:.0f} s")
            records = await self.reader.batch(wait_ms=250)
            await heard(records)
            if judge.epoch >= self.epoch and judge.claim != self.claim:
                raise Deposed(f"epoch {self.epoch} went to another claim")
        self._before = judge.before

    async def _send_batch(self, records: list[Sealed]) -> None:
        assert self._producer is not None
        builder = self._producer.create_batch()
        for record in records:
            fitted = builder.append(
                key=record.key, value=record.value, timestamp=None, headers=record.headers
            )
            if fitted is None:
                self.fail(Doubt("a batch outgrew its limit"))
                raise Doubt("a batch outgrew its limit")
        builder.close()
        try:
            sending = await self._producer.send_batch(builder, self.topic, partition=self.partition)
        except KafkaError as error:
            self.fail(Doubt(f"send failed: {error!r}"))
            raise self._failure or Doubt(repr(error)) from error
        self.flying += 1
        sending.add_done_callback(self._sent_batch)

    def _sent_batch(self, sending: asyncio.Future) -> None:
        self.flying -= 1
        self._landed.set()
        if not sending.cancelled() and sending.exception() is not None:
            self._failure = self._failure or Doubt(f"send failed: {sending.exception()!r}")

    def _hear(self, record: Judged) -> None:
        verdict = record.verdict
        stamp = verdict.stamp
        if verdict.kind == Kind.VOID:
            self.voids += 1
            self._log.warning("void", offset=record.offset, reason=verdict.reason)
            if any(verdict.digest == sealed.digest for sealed, _ in self._sent):
                raise Deposed(f"an own record is void: {verdict.reason}")
            return
        if verdict.kind == Kind.MARKER:
            raise Deposed(f"epoch {self.reader.judge.epoch} was claimed by another")
        assert stamp is not None
        if not self._sent or self._sent[0][0].digest != verdict.digest:
            raise Doubt(f"a valid record {stamp.n} of this claim that it did not write")
        _, appended = self._sent.popleft()
        if appended is not None:
            appended.settle(record.offset)
