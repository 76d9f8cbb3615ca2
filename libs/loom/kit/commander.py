"""Owns one partition of its service's topic: decides commands one after another, and answers each
when its records were read back valid (design.md §2, ADR 0003).

1. One writer: a claim is won in the log. After any doubt the desk is thrown away, the partition is
   claimed again and folded anew; unanswered callers are told that the outcome is unknown.
2. Who was deposed stays away until the winner has been silent for a random, doubling time; an idle
   owner shows a heartbeat. Two claimants cannot chase each other for ever.
3. Long work is cut into slices; a full queue refuses instead of growing.
"""

import asyncio
import random
import time
from collections import deque
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import structlog

from loom.decider import Code
from loom.kit import snapshot
from loom.kit.answers import Answer
from loom.kit.authorize import Authorizer
from loom.kit.contract import Service
from loom.kit.desk import Decided, Desk
from loom.kit.entries import Entry, unknown_outcome
from loom.kit.errors import Failure
from loom.kit.loops import alone, kept
from loom.kit.sealing import Sealing
from loom.kit.snapshot import Snapshot
from loom.kit.ticker import Ticker
from loom.log.clock import now_us
from loom.log.judge import START, Kind
from loom.log.reader import IDLE_MS, Judged, LogAway
from loom.log.topics import Bus
from loom.log.writer import Deposed, Doubt, Writer
from loom.store import Store

__all__ = ["Commander"]

QUEUE_MAX = 4096
SLICE_S = 0.05
SLICE_COMMANDS_MAX = 512
AHEAD_US_MAX = 5 * 60 * 1_000_000
HEARTBEAT_S = 20.0
SNAPSHOT_RECORDS = 2000
STREAMS_A_RECORD = 10
TOGETHER_MIN = 128
"""So many commands are worth a batch of their own while another is on its way."""


class Commander:
    """The owner of one partition, for as long as its process lives."""

    def __init__(
        self,
        service: Service,
        bus: Bus,
        partition: int,
        authorizer: Authorizer,
        owner: str,
        store: Store | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        """Without a store no snapshot is used; without sealing nothing personal is decided."""
        self.service = service
        self.partition = partition
        self.owner = owner
        self.serving = asyncio.Event()
        self.epoch = 0
        self.writer: Writer | None = None
        self.desk: Desk | None = None
        self._snapshot_offset = 0
        self._bus = bus
        self._store = store
        self._sealing = sealing
        self._authorizer = authorizer
        self._queue: deque[Entry] = deque()
        self._wake = asyncio.Event()
        self._ticker = Ticker(service, partition, authorizer)
        self._log = structlog.get_logger().bind(topic=service.topic, partition=partition)

    async def run(self) -> None:
        """Claim and serve for ever; a Doubt starts over, patiently after having been deposed."""
        patience_s = 1.0
        while True:
            began, deposed = time.monotonic(), False
            try:
                await alone(self._serve())
            except* Deposed as group:
                self._log.warning("deposed", reason=str(group.exceptions[0]))
                deposed = True
            except* (Doubt, LogAway, TimeoutError) as group:
                self._log.warning("doubt", reason=str(group.exceptions[0]))
            # Nothing is awaited above: a cancellation there would come out as a group.
            if not deposed:
                await asyncio.sleep(0.2)
                continue
            if time.monotonic() - began > 60:
                patience_s = 1.0
            await self._await_silence(patience_s * (1 + random.random()))  # noqa: S311
            patience_s = min(patience_s * 2, 60)

    async def submit(self, entry: Entry) -> Answer:
        """The command's confirmed answer; Failure UNAVAILABLE when its outcome is unknown."""
        if not self.serving.is_set():
            raise unknown_outcome("the partition is being claimed")
        if len(self._queue) >= QUEUE_MAX:
            raise Failure(
                "RESOURCE_EXHAUSTED", f"{QUEUE_MAX} commands are waiting already: retry later"
            )
        if entry.issued_at_us > now_us() + AHEAD_US_MAX:
            raise Failure(
                Code.INVALID_ARGUMENT,
                f"the command was issued at {entry.issued_at_us} us, more than 5 minutes ahead",
                "issued-at-us",
            )
        self._queue.append(entry)
        self._wake.set()
        return await entry.answer

    async def _serve(self) -> None:
        known = await self._load()
        desk = Desk(self.service, self._bus, self.partition, known, self._sealing)
        writer = Writer(self._bus, self.service.topic, self.partition, self.owner, desk.base)
        self.desk, self.writer, self._snapshot_offset = desk, writer, desk.base.offset
        try:
            await writer.begin(self._fold)
            self.epoch = writer.epoch
            desk.incarnation = writer.reader.judge.incarnation
            self._log.info("claimed", epoch=self.epoch, offset=writer.reader.next_offset)
            for shard in sorted(desk.folder.states):
                desk.plan(shard)
            self.serving.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(kept(writer.confirm()))
                tasks.create_task(kept(self._decide_forever(desk)))
                for inputs in desk.folder.inputs.values():
                    tasks.create_task(kept(self._listen(inputs)))
        finally:
            self.serving.clear()
            self._drop()
            async with AsyncExitStack() as stack:
                stack.push_async_callback(writer.close)
                stack.push_async_callback(desk.folder.stop)

    async def _load(self) -> Snapshot | None:
        if self._store is None:
            return None
        try:
            return await snapshot.load(self.service, self._store, self.partition)
        except psycopg.Error as error:
            self._log.warning("no snapshot to be had", reason=str(error).strip())
            return None

    async def _save(self, desk: Desk) -> None:
        """Store a snapshot where enough has come since the last and nothing is in flight."""
        writer = self.writer
        if self._store is None or writer is None or not writer.idle or self._queue:
            return
        base = writer.reader.base
        # The more streams there are, the more a snapshot costs, and the rarer it is.
        if base.offset - self._snapshot_offset < max(
            SNAPSHOT_RECORDS, len(desk.folder.versions) // STREAMS_A_RECORD
        ):
            return
        self._snapshot_offset = base.offset
        found = snapshot.taken(desk.folder, desk.answers, base, desk.clock.last_us)
        state = await asyncio.to_thread(snapshot.pickled, found)
        try:
            await snapshot.save(self.service, self._store, self.partition, state, base)
        except psycopg.Error as error:
            self._log.warning("snapshot not stored", reason=str(error).strip())

    def _drop(self) -> None:
        for entry in self._queue:
            entry.lose("the partition is being claimed anew")
        self._queue.clear()

    async def _await_silence(self, seconds: float) -> None:
        """Wait until the winning claim has shown nothing for this long (design rule 5)."""
        watcher = Writer(self._bus, self.service.topic, self.partition, self.owner, START)
        try:
            await watcher.reader.start()
            quiet_since = time.monotonic()
            while time.monotonic() - quiet_since < seconds + HEARTBEAT_S:
                records = await watcher.reader.batch(wait_ms=1000)
                if any(record.verdict.valid for record in records):
                    quiet_since = time.monotonic()
        except LogAway as error:
            # Whoever claims next finds out whether the log is back.
            self._log.warning("log away", reason=str(error))
        finally:
            await watcher.close()

    async def _fold(self, records: list[Judged]) -> None:
        """Fold what the log holds already."""
        assert self.writer is not None
        assert self.desk is not None
        for record in records:
            if record.verdict.kind == Kind.EVENT:
                await self.desk.fold(self.writer.reader.recorded(record))
            elif record.verdict.kind == Kind.VOID:
                self._log.warning("void", offset=record.offset, reason=record.verdict.reason)

    async def _listen(self, inputs: Any) -> None:
        while True:
            if inputs.waiting:
                self._wake.set()
                await asyncio.sleep(0.001)
            elif await inputs.read(IDLE_MS):
                self._wake.set()

    async def _decide_forever(self, desk: Desk) -> None:
        while True:
            if not (self._queue or any(i.waiting for i in desk.folder.inputs.values())):
                await self._save(desk)
                self._wake.clear()
                wait_s = self._ticker.wait_s(desk)
                if self._queue:
                    continue
                try:
                    # Not `wait_for`: woken and cancelled at once, it forgets that it was cancelled.
                    async with asyncio.timeout(min(wait_s, HEARTBEAT_S)):
                        await self._wake.wait()
                except TimeoutError:
                    if wait_s > HEARTBEAT_S:
                        await self._save(desk)
                        await self._append([desk.heartbeat()])
                        continue
            await self._gather()
            await self._append(await self._slice(desk))

    async def _gather(self) -> None:
        """Let few commands wait while a batch is on its way: each batch costs the broker a flush,
        and each reader a turn."""
        assert self.writer is not None
        while self.writer.flying and len(self._queue) < TOGETHER_MIN:
            await self.writer.land()

    async def _slice(self, desk: Desk) -> list[Decided]:
        """Decide what waits, for at most SLICE_S."""
        made = []
        advanced = await desk.advance()
        if advanced is not None:
            made.append(advanced)
            for shard in desk.due:
                self._ticker.stirred(shard)
        until = time.monotonic() + SLICE_S
        while self._queue and len(made) < SLICE_COMMANDS_MAX and time.monotonic() < until:
            entry = self._queue.popleft()
            if entry.answer.done():
                continue
            try:
                decided = desk.decide(entry)
            except Failure as failure:
                entry.answer.set_exception(failure)
                continue
            if decided is not None:
                made.append(decided)
                self._ticker.stirred(entry.shard)
        ticks = (self._ticker.decide(desk, shard) for shard in self._ticker.wanted(desk))
        return [*made, *(tick for tick in ticks if tick is not None)]

    async def _append(self, made: list[Decided]) -> None:
        assert self.writer is not None
        if made:
            await self.writer.send(self.writer.append(made))
