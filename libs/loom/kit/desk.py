"""Decides commands on the state that the earlier ones left, ahead of the log.

1. Only later decisions of the same claim see what is not confirmed yet; nobody is answered with it,
   from the index of answers neither. After a doubt the desk is thrown away whole.
2. Same principal, same command id, same content: same answer. Other content: refused, after its
   twin was read back.
3. A command whose decision read state leaves at least one record. Refusals are events too; what one
   caller may leave of them is limited, and beyond it he is told so instead of the verdict.
4. Sealed, encoded and size-checked before `evolve`. What leaves no event of the service's own
   founds no shard, so live and refolded states are the same.
"""

import time
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from loom.decider import Code, Context, Position, Recorded, Rejected, partition_shard, shell_stream
from loom.kit.answers import Answer, Answers
from loom.kit.authorize import VIEW_STALE
from loom.kit.contract import Service
from loom.kit.entries import (
    Entry,
    finish,
    stale_view,
    subject_of,
    tenant_of,
    unknown_subject,
)
from loom.kit.errors import Failure, failure_of
from loom.kit.folder import SHELL_EVENTS
from loom.kit.masking import masked
from loom.kit.sealing import Sealing
from loom.kit.snapshot import Snapshot, unfold
from loom.log import envelope
from loom.log.clock import Clock, now_us
from loom.log.envelope import Draft, Origin, token_of
from loom.log.judge import START
from loom.log.topics import Bus
from loom.log.writer import COMMAND_BYTES_MAX, Doubt, Settle
from loom.personal import has_any
from loom.v1 import common_pb2

__all__ = ["Decided", "Desk"]

REFUSALS_PER_MINUTE_MAX = 120

Decided = tuple[list[Draft], Settle]
"""A command's records, and what to do when their fate is known."""


class Desk:
    """What one claim on one partition knows."""

    def __init__(
        self,
        service: Service,
        bus: Bus,
        partition: int,
        known: Snapshot | None = None,
        sealing: Sealing | None = None,
    ) -> None:
        self.service = service
        self.sealing = sealing
        self.partition = partition
        self.folder = unfold(service, bus, partition, known)
        self.answers = Answers()
        self.clock = Clock()
        self.base = START
        """Where folding begins."""
        self.incarnation = 0
        """The log's, once the claim is won."""
        self.due: dict[str, int] = {}
        """Shard → when its next tick is due, microseconds."""
        self._inflight: dict[str, list[Entry]] = {}
        """Command token → the entry that was decided, and its twins."""
        self._refusals: dict[str, tuple[int, int]] = {}
        if known is not None:
            self.answers = known.answers
            self.clock.witness(known.last_us)
            self.base = known.base

    async def fold(self, recorded: Recorded) -> None:
        """Learn a record that the log holds already, its command's answer included."""
        self.clock.witness(recorded.at_us)
        await self.folder.fold(recorded)
        # An event's id begins with its command's token.
        self.answers.fold(recorded.id.partition(".")[0], recorded)

    def decide(self, entry: Entry) -> Decided | None:
        """One command's records and what to do once confirmed; None when it has a twin.

        Raises Failure where nothing is recorded: too large, too many refusals, a decision that
        broke down.
        """
        token = token_of(entry.caller.principal, entry.command_id)
        flying = self._inflight.get(token)
        if flying is not None:
            flying.append(entry)
            return None
        known = self.answers.get(token)
        if known is not None:
            entry.settle(known)
            return None
        at_us = self.clock.tick(min(entry.issued_at_us, now_us()))
        founded = entry.shard not in self.folder.states
        try:
            events, refused = self._events(entry, at_us)
            self._seal(events, entry.shard, token)
        except Failure:
            if founded:
                self.folder.states.pop(entry.shard, None)
            raise
        drafts = self._drafts(entry, events, at_us, token)
        size = sum(record.size for record in drafts)
        if founded and (size > COMMAND_BYTES_MAX or type(events[0]) in SHELL_EVENTS):
            self.folder.states.pop(entry.shard, None)
        if refused:
            self._limit_refusals(entry.caller.principal)
        elif size > COMMAND_BYTES_MAX:
            raise too_large(size)
        for record in drafts:
            self.folder.apply(entry.shard, record.stream, record.version, record.event)
            self.folder.remember(record.stream, entry.correlation_id, record.id)
        self.plan(entry.shard)
        return drafts, self._settling(entry, token, drafts, at_us)

    async def advance(self) -> Decided | None:
        """Let in what was heard, as one event of the own log."""
        moved = [
            advanced
            for key in sorted(self.folder.inputs)
            if (advanced := self.folder.inputs[key].advance()) is not None
        ]
        if not moved:
            return None
        shard = partition_shard(self.partition)
        drafts = self._internal(common_pb2.InputsAdvanced(shard_id=shard, inputs=moved), shard)
        await self.folder.fold(unplaced(drafts[0], self.service.topic))
        for name in sorted(self.folder.states):
            self.plan(name)
        return drafts, ignore

    def heartbeat(self) -> Decided:
        """Shows a deposed claimant that the owner lives."""
        shard = partition_shard(self.partition)
        event = common_pb2.CommandAcknowledged(shard_id=shard, command_type="heartbeat")
        drafts = self._internal(event, shard)
        self.folder.versions[shard] = drafts[0].version
        return drafts, ignore

    def plan(self, shard: str) -> None:
        """Note when the shard's next tick is due."""
        state = self.folder.states.get(shard)
        if self.service.due is None or state is None:
            return
        due_us = self.service.due(state)
        if due_us is None:
            self.due.pop(shard, None)
        else:
            self.due[shard] = due_us

    def _settling(self, entry: Entry, token: str, drafts: list[Draft], at_us: int) -> Settle:
        entries = self._inflight[token] = [entry]

        def settle(fate: int | Doubt) -> None:
            self._inflight.pop(token, None)
            if isinstance(fate, Doubt):
                for one in entries:
                    one.lose(str(fate))
                return
            answer = Answer(entry.digest, at_us, correlation_id=entry.correlation_id)
            place = Position(self.service.topic, self.partition, fate, self.incarnation)
            finish(answer, drafts, place)
            self.answers.put(token, answer)
            for one in entries:
                one.settle(answer)

        return settle

    def _events(self, entry: Entry, at_us: int) -> tuple[list[Message], bool]:
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
            if entry.refusal is not None:
                raise entry.refusal
            self._authorise(entry, state)
            self._expect(entry)
            events = list(self.service.decide(request, state, context))
        except Rejected as refusal:
            refused = common_pb2.CommandRefused(
                shard_id=shell_stream(shard),
                command_type=request.DESCRIPTOR.full_name,
                code=refusal.code,
                message=masked(refusal.message, request)[:1000],
                field=refusal.field,
                subject=subject_of(request),
            )
            return [refused], True
        except Exception as error:
            # Deciding is pure, so nothing has changed: one caller's command fails, not the owner.
            raise failure_of(error, entry.correlation_id) from error
        if not events:
            events.append(
                common_pb2.CommandAcknowledged(
                    shard_id=shell_stream(shard),
                    command_type=request.DESCRIPTOR.full_name,
                    subject=subject_of(request),
                )
            )
        return events, False

    def _seal(self, events: list[Message], shard: str, token: str) -> None:
        """What is personal becomes ciphertext before anything else sees it."""
        if not any(has_any(event.DESCRIPTOR) for event in events):
            return
        if self.sealing is None:
            raise Failure("UNAVAILABLE", "this process has no keys to seal personal content with")
        self.sealing.seal(events, shard, token)

    def _authorise(self, entry: Entry, state: Any) -> None:
        if isinstance(entry.request, common_pb2.TickRequest):
            # No RPC carries it: it comes from the commander's own clock.
            return
        resource = self.service.resource(entry.request, state)
        if resource is None:
            raise unknown_subject(entry.request)
        decision = entry.caller.may(entry.action, resource)
        if decision.allowed:
            return
        if VIEW_STALE in decision.reasons:
            # No verdict, so no record: a reactor would take a refusal for the last word.
            raise stale_view()
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

    def _drafts(self, entry: Entry, events: list[Message], at_us: int, token: str) -> list[Draft]:
        versions = []
        ahead: dict[str, int] = {}
        for event in events:
            stream = envelope.stream_of(event)
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
            token=token,
        )
        return envelope.draft(events, versions, origin, self._stories(entry, ahead))

    def _stories(self, entry: Entry, streams: Mapping[str, int]) -> Mapping[str, tuple[str, str]]:
        """The stories that go on: a tick, or a node's report, names no cause of its own."""
        if entry.caller.kind == "user" or entry.causation_id:
            return {}
        told = entry.correlation_id if entry.correlation_id != entry.command_id else ""
        known = self.folder.stories
        return {
            stream: known[stream]
            for stream in streams
            if stream in known and told in ("", known[stream][0])
        }

    def _internal(self, event: Message, shard: str) -> list[Draft]:
        at_us = self.clock.tick()
        command_id = f"{at_us:x}"
        origin = Origin(
            source=f"/loomos/{self.service.name}",
            shard=shard,
            actor=f"service:{self.service.name}",
            command_id=command_id,
            command_digest=bytes(32),
            issued_at_us=at_us,
            at_us=at_us,
            correlation_id=command_id,
            causation_id="",
        )
        drafts = envelope.draft([event], [self.folder.versions.get(shard, 0) + 1], origin)
        self.folder.remember(shard, command_id, drafts[0].id)
        return drafts


def too_large(size: int) -> Failure:
    """The events of one command do not fit into one record batch."""
    return Failure(
        "INVALID_ARGUMENT",
        f"the command's events take {size} bytes, at most {COMMAND_BYTES_MAX} are allowed",
    )


def ignore(fate: int | Doubt) -> None:
    """For records that nobody waits for."""


def unplaced(record: Draft, topic: str) -> Recorded:
    """A record of this claim as the folder takes it, before the log gave it a place."""
    return Recorded(
        event=record.event, type="", id=record.id, stream=record.stream, version=record.version,
        shard=record.key.decode(), position=Position(topic, 0, -1), at_us=0, actor="",
        command_id="", correlation_id="", causation_id="",
    )  # fmt: skip
