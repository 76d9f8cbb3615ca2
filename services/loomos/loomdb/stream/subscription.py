"""Streams of events to who asks for them: live ones, and deliveries that must be settled.

1. A reader is asked by the transport for its next answer when the last one has left: flow control
   pauses who is slow, who then costs one answer and his place, and harms nobody.
2. Readers who are told the same at the same time are given one answer, matched to each one's own
   rights before; what is sealed, or lifted to newer versions, is made for its reader alone.
3. Each stream is recorded in the trail of reads before its first event; an hour of coming and going
   with the same question leaves few records.
4. Streams end after a while, so that their caller proves again who he is.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from loom.kit.authorize import Caller
from loom.kit.errors import Failure
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import reveal
from loomos.loomdb.beginning import of_start
from loomos.loomdb.entry import Entry
from loomos.loomdb.filter import selection
from loomos.loomdb.sight import Rights
from loomos.loomdb.stream.source import Source
from loomos.loomdb.stream.tail import tail_of
from loomos.loomdb.upcast import lifted

if TYPE_CHECKING:
    from loom.kit.service import Shell

__all__ = ["BATCH", "STREAM_S_MAX", "admitted", "recorded_as_read", "shown", "subscribe"]

BATCH = 100
STREAM_S_MAX = 900.0
QUIET_S = 10.0
AGAIN_S = 600.0
FILL_S = 0.02
STREAMS_MAX = 1000
STREAMS_EACH_MAX = 100


class Answer:
    """What readers are told; never changed once one of them has it."""

    __slots__ = ("__weakref__", "flow")

    def __init__(self, flow: pb.EventFlow) -> None:
        self.flow = flow


class Open:
    """The streams of one process, which of them were recorded lately, and what they are told."""

    def __init__(self) -> None:
        self.by_principal: Counter[str] = Counter()
        self.recorded: dict[tuple[str, str, str, str], float] = {}
        self.answers: WeakValueDictionary[tuple[tuple[Entry, ...], str, bool], Answer] = (
            WeakValueDictionary()
        )
        """Those that some reader is being given: who is told the same is given the same."""


OPEN: WeakKeyDictionary[Any, Open] = WeakKeyDictionary()


async def subscribe(
    request: pb.SubscribeRequest, caller: Caller, shell: "Shell"
) -> AsyncIterator[pb.EventFlow]:
    """Events that fit and that the caller may see, from where he says on."""
    asked = selection(request.types, request.where, request.filter)
    rights = Rights(shell.authorizer, caller.principal, request.organisation_id)
    with admitted(caller, shell):
        start = pb.EventStart(
            start=request.start,
            cursor=request.cursor,
            from_us=request.from_us,
            from_event_id=request.from_event_id,
        )
        tail = tail_of(shell)
        await tail.started()
        vector = await of_start(start, rights, shell)
        await recorded_as_read(request, caller, shell)
        source = Source(shell, tail, asked, rights, vector)
        ends_at = time.monotonic() + STREAM_S_MAX
        yield pb.EventFlow(cursor=source.cursor)
        async for answer in answers(source, request, caller, shell):
            yield answer.flow
            if time.monotonic() > ends_at:
                raise Failure("UNAVAILABLE", "the stream is old: go on from its cursor")


async def answers(
    source: Source, request: pb.SubscribeRequest, caller: Caller, shell: "Shell"
) -> AsyncIterator[Answer]:
    """Answers for ever, each as full as its reader wants to wait for."""
    told_at, live = time.monotonic(), False
    while True:
        limit, flush_s = request.batch_size or BATCH, request.flush_ms / 1000
        found = await gathered(source, limit, flush_s)
        if not found and source.blind:
            raise Failure("PERMISSION_DENIED", "there is nothing that you may see any more")
        came_live, live = source.live and not live, source.live
        if found or came_live or time.monotonic() - told_at > QUIET_S:
            told_at = time.monotonic()
            yield await answered(found, source.cursor, live, request.upcast, caller, shell)
            if live and request.until_live:
                return


async def answered(
    found: list[Entry], cursor: str, live: bool, upcast: bool, caller: Caller, shell: "Shell"
) -> Answer:
    """The answer that tells of these events: one for all, where no reader's eyes matter for it."""
    shared, key = opened(shell).answers, (tuple(found), cursor, live)
    answer = None if upcast else shared.get(key)
    if answer is None:
        events = [entry.event for entry in found]
        answer = Answer(pb.EventFlow(events=events, cursor=cursor, live=live))
        if upcast or any(map(reveal.may_be_sealed, events)):
            await shown(answer.flow, upcast, caller, shell)
        else:
            shared[key] = answer
    return answer


async def shown(flow: Message, upcast: bool, caller: Caller, shell: "Shell") -> None:
    """Have the answer as its reader may see it, and by the versions that he asks for."""
    await reveal.revealed(flow, caller, shell)
    if upcast and (events := reveal.events_in(flow)):
        async with shell.db() as db:
            await lifted(events, db)


async def gathered(source: Source, limit: int, flush_s: float) -> list[Entry]:
    """The next events: those that are there, or that come within a while."""
    await source.wait(QUIET_S)
    sight = source.sight
    found = await source.take(limit)
    if found and flush_s:
        deadline = time.monotonic() + flush_s
        while len(found) < limit and (left := deadline - time.monotonic()) > 0:
            # Not woken by each event: who fills his answers wants few of them.
            await asyncio.sleep(min(left, FILL_S))
            found += await source.take(limit - len(found))
    # Rights may have been withdrawn while the answer was filled.
    return await source.seen(found, sight)


@contextmanager
def admitted(caller: Caller, shell: "Shell") -> Iterator[None]:
    """One more stream of a caller, while there are not too many."""
    own = opened(shell)
    if own.by_principal[caller.principal] >= STREAMS_EACH_MAX:
        told = f"{STREAMS_EACH_MAX} streams of yours are open: close one"
        raise Failure("RESOURCE_EXHAUSTED", told)
    if own.by_principal.total() >= STREAMS_MAX:
        raise Failure("RESOURCE_EXHAUSTED", f"{STREAMS_MAX} streams are open here: retry later")
    own.by_principal[caller.principal] += 1
    try:
        yield
    finally:
        own.by_principal[caller.principal] -= 1
        own.by_principal += Counter()


def opened(shell: "Shell") -> Open:
    """The streams of this process."""
    if shell not in OPEN:
        OPEN[shell] = Open()
    return OPEN[shell]


async def recorded_as_read(request: Message, caller: Caller, shell: "Shell") -> None:
    """Leave a record of who reads which events; the same question again soon leaves none."""
    own = opened(shell)
    organisation = str(getattr(request, "organisation_id"))  # noqa: B009 - generated attribute
    asked = type(request)()
    asked.CopyFrom(request)
    if "cursor" in asked.DESCRIPTOR.fields_by_name:
        asked.ClearField("cursor")
    query = MessageToJson(asked, preserving_proto_field_name=True, sort_keys=True, indent=None)
    method = request.DESCRIPTOR.name.removesuffix("Request")
    key, now = (caller.principal, organisation, method, query), time.monotonic()
    own.recorded = {one: at for one, at in own.recorded.items() if now - at < AGAIN_S}
    if key in own.recorded:
        return
    told = f'{{"by": "{caller.principal}", "asked": {query}}}'
    await shell.tell_as_self(
        pb.ReportStreamRequest(
            organisation_id=organisation,
            principal=caller.principal,
            method=method,
            query=told,
        )
    )
    own.recorded[key] = now
