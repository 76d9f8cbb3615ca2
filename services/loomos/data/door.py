"""What stands beside the decision of an append: ids too old for the state, and the answer.

1. The read model is asked about an id only where the state has forgotten some, and only once it has
   heard of what was forgotten; until then the outcome is unknown and the caller asks again.
2. A field that the door writes is written over, whatever a caller sent in it.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from google.protobuf.message import Message

from loom.decider import Context, Rejected
from loom.kit.caller import Caller
from loom.kit.errors import Failure
from loom.log.copies import CopiesOf, CopiesUnknown
from loom.log.topics import partition_of
from loom.v1 import common_pb2
from loom.v1 import data_pb2 as pb
from loomos.data import query
from loomos.data.decide.event import append_token, content_of
from loomos.data.state import State, id_key, initial

if TYPE_CHECKING:
    from loom.kit.service import Shell

__all__ = ["answer", "prepare"]

PLACES_SECONDS_MAX = 5.0
BEGAN: ContextVar[float] = ContextVar("began")
ASKED: "WeakKeyDictionary[Shell, dict[int, CopiesOf]]" = WeakKeyDictionary()
"""Partition → who knows its copies, for each process's shell."""


async def prepare(command: Message, caller: Caller, shell: "Shell") -> Message:
    """The command with what the read model knows of ids that the state has forgotten."""
    BEGAN.set(time.monotonic())
    match command:
        case pb.AppendEventRequest() | pb.AppendEventsRequest() | pb.SubmitBatchRequest():
            command.ClearField("old")
            events = events_of(command)
            ids = {event.event_id for event in events} | {event.causation_id for event in events}
            command.old.extend(await forgotten(command.organisation_id, ids - {""}, shell))
            for event in events:
                event.digest = digest_of(event, command.organisation_id, shell)
    match command:
        case pb.AppendEventRequest() | pb.AppendEventsRequest():
            command.ClearField("copies")
            if command.consistency in (pb.CONSISTENCY_QUORUM, pb.CONSISTENCY_ALL):
                command.copies.CopyFrom(await copies(command.organisation_id, shell))
    return command


async def copies(organisation_id: str, shell: "Shell") -> pb.LogCopies:
    """How many brokers hold the organisation's partition now; Failure while they do not say."""
    partition = partition_of(organisation_id, shell.settings.partitions)
    of_shell = ASKED.setdefault(shell, {})
    asked = of_shell.setdefault(partition, CopiesOf(shell.settings, shell.service.topic, partition))
    try:
        found = await asked.now()
    except CopiesUnknown as error:
        raise Failure(
            "UNAVAILABLE", "the cluster does not say how many copies it keeps: retry"
        ) from error
    return pb.LogCopies(replicas=found.replicas, in_sync=found.in_sync, min_insync=found.min_insync)


def digest_of(event: pb.NewEvent, organisation_id: str, shell: "Shell") -> bytes:
    """What an event with personal content is known again by; empty where it has none."""
    if not event.data_subject and not event.personal_paths:
        return b""
    bare = pb.NewEvent()
    bare.CopyFrom(event)
    for name in ("organisation_id", "payload", "digest"):
        bare.ClearField(name)
    with contextlib.suppress(Rejected):  # deciding will say what is wrong
        bare.payload_json = content_of(event, "event")
    content = bare.SerializeToString(deterministic=True)
    return shell.sealing.digest(organisation_id, event.data_subject, content)


def events_of(command: Message) -> Sequence[pb.NewEvent]:
    """The events that a command brings."""
    match command:
        case pb.AppendEventRequest():
            return [command.event]
        case pb.AppendEventsRequest() | pb.SubmitBatchRequest():
            return command.events
        case _:
            return ()


def state_of(organisation_id: str, shell: "Shell") -> State:
    """What is folded of an organisation here, an empty state where nothing is."""
    commander = shell.ownership.commander_of(organisation_id)
    if commander is None or commander.desk is None:
        return initial(organisation_id)
    return commander.desk.folder.states.get(organisation_id) or initial(organisation_id)


async def forgotten(organisation_id: str, ids: set[str], shell: "Shell") -> list[pb.OldEvent]:
    """What the read model knows of ids that the state does not."""
    state = state_of(organisation_id, shell)
    asked = sorted(one for one in ids if id_key(one) not in state.known)
    if not state.forgotten_us or not asked:
        return []
    async with shell.db() as db:
        cursor = await db.execute(
            "SELECT max(appended_at_us) AS seen FROM event_ids WHERE organisation_id = %s",
            (organisation_id,),
        )
        row = await cursor.fetchone()
        if row is None or (row["seen"] or 0) < state.forgotten_us:
            raise Failure("UNAVAILABLE", "old event ids are being read in: retry the same command")
        found = await query.places(organisation_id, asked, db)
    return [
        pb.OldEvent(event_id=event_id, digest=found[event_id]["digest"])
        for event_id in sorted(found)
    ]


async def answer(
    command: Message, receipt: common_pb2.Receipt, caller: Caller, shell: "Shell"
) -> Message:
    """What became of an append, event by event; or the batch that was handed over."""
    took_ms = int((time.monotonic() - BEGAN.get()) * 1000)
    match command:
        case pb.AppendEventRequest() | pb.AppendEventsRequest():
            return await result(command, receipt, caller, shell, took_ms)
        case pb.SubmitBatchRequest():
            return pb.EventBatch(
                batch_id=receipt.id,
                events=len(command.events),
                pending=len(command.events),
                processing_time_ms=took_ms,
                receipt=receipt,
            )
    return receipt


async def result(
    command: pb.AppendEventRequest | pb.AppendEventsRequest,
    receipt: common_pb2.Receipt,
    caller: Caller,
    shell: "Shell",
    took_ms: int,
) -> pb.AppendResult:
    """The answer to an append: what is new has its place from the receipt, the rest from before."""
    context = Context(receipt.command_id, 0, caller.principal, command.organisation_id)
    append_id = append_token(context)
    known = state_of(command.organisation_id, shell).known
    told = pb.AppendResult(receipt=receipt, processing_time_ms=took_ms)
    fresh: list[pb.AppendedEvent] = []
    older: list[pb.AppendedEvent] = []
    seen: set[str] = set()
    for index, event in enumerate(events_of(command)):
        event_id = event.event_id or context.new_id("event", index)
        one = told.events.add(event_id=event_id, stream=event.stream or event.type)
        found = known.get(id_key(event_id))
        if found is not None and found.append_id == append_id and event_id not in seen:
            one.version = found.version
            fresh.append(one)
        else:
            one.duplicate = True
            older.append(one)
        seen.add(event_id)
    last = receipt.positions[0]
    for before, one in enumerate(reversed(fresh)):
        # The records of one command stand side by side; the receipt names the last.
        one.position.CopyFrom(last)
        one.position.offset = last.offset - before
    await place_older(older, command.organisation_id, shell)
    told.events_processed, told.duplicates = len(fresh), len(older)
    return told


async def place_older(older: list[pb.AppendedEvent], organisation_id: str, shell: "Shell") -> None:
    """Say of repeated events where they stood first, once the read model has them."""
    give_up = time.monotonic() + PLACES_SECONDS_MAX
    missing = older
    while missing:
        async with shell.db() as db:
            found = await query.places(organisation_id, [one.event_id for one in missing], db)
        for one in missing:
            if one.event_id in found:
                put(one, found[one.event_id])
        missing = [one for one in missing if one.event_id not in found]
        if missing and time.monotonic() > give_up:
            raise Failure(
                "UNAVAILABLE", "a repeated event is not projected yet: retry with the same ids"
            )
        if missing:
            await asyncio.sleep(0.01)


def put(one: pb.AppendedEvent, row: dict[str, Any]) -> None:
    """The place of a known event."""
    one.stream, one.version = row["stream"], row["version"]
    one.position.CopyFrom(
        common_pb2.Position(
            topic=row["topic"],
            partition=row["partition"],
            offset=row["record_offset"],
            incarnation=row["incarnation"],
        )
    )
