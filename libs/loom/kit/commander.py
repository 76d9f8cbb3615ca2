"""Owns one partition of its service's topic: decides commands one after another, and answers each
when its records were read back valid (design.md §2, ADR 0003).

1. One writer: a claim is won in the log. After any doubt all state is dropped, the partition is
   claimed again and folded anew; unanswered callers are told that the outcome is unknown.
2. Only later decisions of the same claim see what is not confirmed yet; nobody is answered with it,
   from the index of answers neither.
3. Same principal, same command id, same content: same answer. Other content: refused, after its
   twin was read back.
4. A command whose decision read state leaves at least one record. Refusals are events too; what one
   caller may leave of them is limited, and beyond it he is told so instead of the verdict.
5. Encoded and size-checked before `evolve`; a command's records travel whole or not at all.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import structlog
from google.protobuf.message import Message

from loom.decider import Code, Context, Position, Recorded, Rejected
from loom.kit.answers import Answer, Answers
from loom.kit.authorize import Authorizer
from loom.kit.contract import Service
from loom.kit.entries import (
    Entry,
    finish,
    follow_twin,
    settle_known,
    subject_of,
    tenant_of,
    unknown_outcome,
    unknown_subject,
)
from loom.kit.errors import Failure
from loom.kit.folder import Folder
from loom.log import envelope
from loom.log.clock import Clock, now_us
from loom.log.envelope import Draft, Origin, token_of
from loom.log.judge import START, Kind
from loom.log.reader import Judged
from loom.log.topics import Bus
from loom.log.writer import COMMAND_BYTES_MAX, Appended, Deposed, Doubt, Writer
from loom.v1 import common_pb2

__all__ = ["Commander"]

QUEUE_MAX = 4096
SLICE_S = 0.05
SLICE_COMMANDS_MAX = 512
AHEAD_US_MAX = 5 * 60 * 1_000_000
REFUSALS_PER_MINUTE_MAX = 120
HEARTBEAT_S = 20.0


Decided = tuple[list[Draft], Callable[[asyncio.Future[int]], None]]
"""A command's records, and what to do when they are confirmed."""


class Commander:
    """The owner of one partition, for as long as its process lives."""

    def __init__(
        self,
        service: Service,
        bus: Bus,
        partition: int,
        authorizer: Authorizer,
        owner: str,
    ) -> None:
        self.service = service
        self.partition = partition
        self.owner = owner
        self.serving = asyncio.Event()
        self.epoch = 0
        self.writer: Writer | None = None
        self._bus = bus
        self._authorizer = authorizer
        self._queue: deque[Entry] = deque()
        self._wake = asyncio.Event()
        self._log = structlog.get_logger().bind(topic=service.topic, partition=partition)
        self._refusals: dict[str, tuple[int, int]] = {}
        self._reset()

    def _reset(self) -> None:
        self.folder = Folder(self.service, self._bus, self.partition)
        self.answers = Answers()
        self._clock = Clock()
        self._inflight: dict[str, tuple[bytes, asyncio.Future[Answer]]] = {}
        self._due: dict[str, int] = {}

    async def run(self) -> None:
        """Claim and serve for ever; a Doubt starts over, patiently after having been deposed."""
        patience_s = 1.0
        while True:
            began = time.monotonic()
            try:
                await self._serve()
            except* Deposed as group:
                self._log.warning("deposed", reason=str(group.exceptions[0]))
                if time.monotonic() - began > 60:
                    patience_s = 1.0
                await self._await_silence(patience_s * (1 + random.random()))  # noqa: S311
                patience_s = min(patience_s * 2, 60)
            except* (Doubt, TimeoutError) as group:
                self._log.warning("doubt", reason=str(group.exceptions[0]))
                await asyncio.sleep(0.2)

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
        self._reset()
        self.writer = Writer(self._bus, self.service.topic, self.partition, self.owner, START)
        try:
            await self.writer.begin(self._fold)
            self.epoch = self.writer.epoch
            self._log.info("claimed", epoch=self.epoch, offset=self.writer.reader.next_offset)
            self.serving.set()
            for shard in sorted(self.folder.states):
                self._plan(shard)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.writer.confirm())
                tasks.create_task(self._decide_forever())
                tasks.create_task(self._tick_forever())
                for inputs in self.folder.inputs.values():
                    tasks.create_task(self._listen(inputs))
        finally:
            self.serving.clear()
            self._drop()
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self.writer.close)
                stack.push_async_callback(self.folder.stop)

    def _drop(self) -> None:
        lost = unknown_outcome("the partition is being claimed anew")
        for entry in self._queue:
            if not entry.answer.done():
                entry.answer.set_exception(lost)
        self._queue.clear()
        for _, waiting in self._inflight.values():
            if not waiting.done():
                waiting.set_exception(lost)
                waiting.exception()
        self._inflight.clear()

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
        finally:
            await watcher.close()

    async def _fold(self, records: list[Judged]) -> None:
        """Fold what the log holds already, answers included."""
        assert self.writer is not None
        for record in records:
            if record.verdict.kind == Kind.EVENT:
                recorded = self.writer.reader.recorded(record)
                self._clock.witness(recorded.at_us)
                await self.folder.fold(recorded)
                mark = next(v for k, v in record.headers if k == "ce_commanddigest")
                self.answers.fold(token_of(recorded.actor, recorded.command_id), mark, recorded)
            elif record.verdict.kind == Kind.VOID:
                self._log.warning("void", offset=record.offset, reason=record.verdict.reason)

    async def _listen(self, inputs: Any) -> None:
        while True:
            if inputs.waiting:
                self._wake.set()
                await asyncio.sleep(0.001)
            elif await inputs.read(wait_ms=2000):
                self._wake.set()

    async def _decide_forever(self) -> None:
        while True:
            if not self._queue and not any(i.waiting for i in self.folder.inputs.values()):
                self._wake.clear()
                try:
                    await asyncio.wait_for(self._wake.wait(), HEARTBEAT_S)
                except TimeoutError:
                    await self._append([self._heartbeat()])
                    continue
            await self._append(await self._slice())

    async def _slice(self) -> list[Decided]:
        """Decide what waits, for at most SLICE_S."""
        made = []
        advanced = await self._advance()
        if advanced is not None:
            made.append(advanced)
        until = time.monotonic() + SLICE_S
        while self._queue and len(made) < SLICE_COMMANDS_MAX and time.monotonic() < until:
            entry = self._queue.popleft()
            if entry.answer.done():
                continue
            try:
                decided = self._decide(entry)
            except Failure as failure:
                entry.answer.set_exception(failure)
                continue
            if decided is not None:
                made.append(decided)
        return made

    async def _append(self, made: list[Decided]) -> None:
        if not made:
            return
        assert self.writer is not None
        appended: list[Appended] = self.writer.append([drafts for drafts, _ in made])
        for command, (_, settle) in zip(appended, made, strict=True):
            command.confirmed.add_done_callback(settle)
        await self.writer.send(appended)

    def _decide(self, entry: Entry) -> Decided | None:
        """One command's records and what to do when they are confirmed; None when it has a twin."""
        token = token_of(entry.caller.principal, entry.command_id)
        known = self.answers.get(token)
        flying = self._inflight.get(token)
        if flying is not None:
            flying[1].add_done_callback(lambda done: follow_twin(entry, flying[0], done))
            return None
        if known is not None:
            settle_known(entry, known)
            return None
        at_us = self._clock.tick(min(entry.issued_at_us, now_us()))
        events, refusal = self._events(entry, at_us)
        if refusal is not None:
            self._limit_refusals(entry.caller.principal)
        drafts = self._drafts(entry, events, at_us)
        size = sum(record.size for record in drafts)
        if size > COMMAND_BYTES_MAX:
            raise Failure(
                "INVALID_ARGUMENT",
                f"the command's events take {size} bytes, at most {COMMAND_BYTES_MAX} are allowed",
            )
        state = self.folder.state(entry.shard)
        for record in drafts:
            self.folder.versions[record.stream] = record.version
            self.service.evolve(state, record.event)
        self._plan(entry.shard)
        answer = Answer(entry.digest, at_us, correlation_id=entry.correlation_id)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._inflight[token] = (entry.digest, future)

        def settle(confirmed: asyncio.Future[int]) -> None:
            if confirmed.cancelled() or confirmed.exception() is not None:
                return
            finish(answer, drafts, Position(self.service.topic, self.partition, confirmed.result()))
            self.answers.put(token, answer)
            self._inflight.pop(token, None)
            if not future.done():
                future.set_result(answer)

        future.add_done_callback(lambda done: follow_twin(entry, entry.digest, done))
        return drafts, settle

    def _events(self, entry: Entry, at_us: int) -> tuple[list[Message], Rejected | None]:
        """What the command comes to: its events, or the one that refuses it."""
        request, shard = entry.request, entry.shard
        state = self.folder.state(shard)
        context = Context(
            entry.command_id,
            at_us,
            entry.caller.principal,
            shard,
            entry.correlation_id,
            entry.causation_id,
        )
        try:
            self._authorise(entry, state)
            self._expect(entry)
            events = list(self.service.decide(request, state, context))
        except Rejected as refusal:
            refused = common_pb2.CommandRefused(
                shard_id=shard,
                command_type=request.DESCRIPTOR.full_name,
                code=refusal.code,
                message=refusal.message[:1000],
                field=refusal.field,
                subject=subject_of(request),
            )
            return [refused], refusal
        if not events:
            events.append(
                common_pb2.CommandAcknowledged(
                    shard_id=shard,
                    command_type=request.DESCRIPTOR.full_name,
                    subject=subject_of(request),
                )
            )
        return events, None

    def _authorise(self, entry: Entry, state: Any) -> None:
        resource = self.service.resource(entry.request, state)
        if resource is None:
            raise unknown_subject(entry.request)
        decision = entry.caller.may(entry.action, resource)
        if decision.allowed:
            return
        if tenant_of(resource) != entry.caller.organisation_id:
            raise unknown_subject(entry.request, resource)
        raise Rejected(
            Code.PERMISSION_DENIED,
            f"{entry.caller.principal} may not {entry.action} on {resource.kind} {resource.id}: "
            f"{', '.join(decision.reasons)}",
        )

    def _expect(self, entry: Entry) -> None:
        for stream, version in sorted(entry.expected.items()):
            found = self.folder.versions.get(stream, 0)
            if found != version:
                raise Rejected(
                    Code.ABORTED,
                    f"stream {stream} is at version {found}, the command expected {version}: "
                    "read it again and decide anew",
                    "expected-version",
                )

    def _limit_refusals(self, principal: str) -> None:
        minute = int(time.monotonic() // 60)
        since, count = self._refusals.get(principal, (minute, 0))
        count = count + 1 if since == minute else 1
        self._refusals[principal] = (minute, count)
        if len(self._refusals) > 10_000:
            self._refusals.clear()
        if count > REFUSALS_PER_MINUTE_MAX:
            raise Failure(
                "RESOURCE_EXHAUSTED",
                f"more than {REFUSALS_PER_MINUTE_MAX} refused commands in a minute: wait",
            )

    def _drafts(self, entry: Entry, events: list[Message], at_us: int) -> list[Draft]:
        versions = []
        ahead: dict[str, int] = {}
        for event in events:
            stream = str(getattr(event, event.DESCRIPTOR.fields[0].name))
            ahead[stream] = ahead.get(stream, self.folder.versions.get(stream, 0)) + 1
            versions.append(ahead[stream])
        origin = Origin(
            source=f"/loomos/{self.service.name}",
            shard=entry.shard,
            actor=entry.caller.principal,
            command_id=entry.command_id,
            command_digest=entry.digest,
            issued_at_us=entry.issued_at_us,
            at_us=at_us,
            correlation_id=entry.correlation_id,
            causation_id=entry.causation_id,
            traceparent=entry.traceparent,
            context=entry.caller.context(),
        )
        return envelope.draft(events, versions, origin)

    async def _advance(self) -> Decided | None:
        """Let in what was heard, as one event of the own log."""
        moved = [
            advanced
            for key in sorted(self.folder.inputs)
            if (advanced := self.folder.inputs[key].advance()) is not None
        ]
        if not moved:
            return None
        shard = f"partition-{self.partition}"
        event = common_pb2.InputsAdvanced(shard_id=shard, inputs=moved)
        drafts = self._internal(event, shard)
        before = set(self.folder.states)
        for recorded in await self.folder.fold(unplaced(drafts[0], self.service.topic)):
            before.add(recorded.shard)
        for name in sorted(before & set(self.folder.states)):
            self._plan(name)
        return drafts, ignore

    def _heartbeat(self) -> Decided:
        """Shows a deposed claimant that the owner lives."""
        shard = f"partition-{self.partition}"
        event = common_pb2.CommandAcknowledged(shard_id=shard, command_type="heartbeat")
        drafts = self._internal(event, shard)
        self.folder.versions[shard] = drafts[0].version
        return drafts, ignore

    def _internal(self, event: Message, shard: str) -> list[Draft]:
        at_us = self._clock.tick()
        actor = f"service:{self.service.name}"
        command_id = f"{at_us:x}-{self.epoch}"
        origin = Origin(
            f"/loomos/{self.service.name}", shard, actor, command_id, bytes(32), at_us, at_us,
            command_id, "",
        )  # fmt: skip
        return envelope.draft([event], [self.folder.versions.get(shard, 0) + 1], origin)

    def _plan(self, shard: str) -> None:
        """Note when the shard's next tick is due."""
        if self.service.due is None:
            return
        due_us = self.service.due(self.folder.states[shard])
        if due_us is None:
            self._due.pop(shard, None)
        else:
            self._due[shard] = due_us

    async def _tick_forever(self) -> None:
        if self.service.due is None:
            return
        while True:
            now = now_us()
            for shard, due_us in sorted(self._due.items()):
                if due_us <= now:
                    await self._tick(shard, now)
            soonest = min(self._due.values(), default=now + 500_000)
            await asyncio.sleep(min(0.5, max(0.02, (soonest - now_us()) / 1e6)))

    async def _tick(self, shard: str, now: int) -> None:
        entry = Entry(
            request=common_pb2.TickRequest(shard_id=shard),
            caller=self._authorizer.service_caller(self.service.name),
            shard=shard,
            action="Tick",
            command_id=f"tick-{now:x}",
            digest=bytes(32),
            issued_at_us=now,
            correlation_id=f"tick-{now:x}",
            causation_id="",
            traceparent="",
            expected={},
            answer=asyncio.get_running_loop().create_future(),
        )
        answer = await self.submit(entry)
        if answer.code:
            self._log.error("tick refused", shard=shard, reason=answer.message)
            await asyncio.sleep(1)


def ignore(confirmed: asyncio.Future[int]) -> None:
    """For records that nobody waits for; takes note of the exception so that none is unheard."""
    if not confirmed.cancelled():
        confirmed.exception()


def unplaced(record: Draft, topic: str) -> Recorded:
    """A record of this claim as the folder takes it, before the log gave it a place."""
    return Recorded(
        event=record.event, type="", id=record.id, stream=record.stream, version=record.version,
        shard=record.key.decode(), position=Position(topic, 0, -1), at_us=0, actor="",
        command_id="", correlation_id="", causation_id="",
    )  # fmt: skip
