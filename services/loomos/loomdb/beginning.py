"""Where a reader of events begins, as positions: what he says in words is a fact of the log.

1. A place behind an event is given only to who may see that event.
2. A cursor that is a moment ahead of the index is waited for; one that stays ahead is refused.
"""

import asyncio
import time
from typing import Any

from loom.kit.authorize import Caller
from loom.kit.errors import Failure
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import cursor as cursors
from loomos.loomdb.cursor import Vector
from loomos.loomdb.entry import Entry
from loomos.loomdb.filter import selection
from loomos.loomdb.query.place import (
    NotProjectedYet,
    begins,
    projected,
    row_of_event,
    unknown_event,
)
from loomos.loomdb.sight import Rights

__all__ = ["of_feed", "of_now", "of_start", "of_subscription"]

PROJECTED_S = 0.7
"""Less than the gateway waits before it begins to answer."""
LOOK_S = 0.1
ANY = selection((), (), pb.Filter())


async def of_subscription(command: pb.CreateSubscriptionRequest, caller: Caller, shell: Any) -> str:
    """The positions where a new subscription begins."""
    rights = Rights(shell.authorizer, caller.principal, command.organisation_id)
    return await as_text(await of_start(command.start, rights, shell), shell)


async def of_feed(command: pb.EnableFeedRequest, shell: Any) -> str:
    """The positions where a new feed begins."""
    start = pb.EventStart()
    if command.from_beginning:
        start.start = pb.STREAM_START_BEGINNING
    async with shell.db() as db:
        vector = await begins(start, db)
    return await as_text(vector, shell)


async def of_now(shell: Any) -> str:
    """The positions where the index stands: no later than what comes from now on."""
    async with shell.db() as db:
        vector = await begins(pb.EventStart(), db)
    return await as_text(vector, shell)


async def of_start(start: pb.EventStart, rights: Rights, shell: Any) -> Vector:
    """The place that a reader asks for; raises Rejected or Failure."""
    deadline = time.monotonic() + PROJECTED_S
    while True:
        try:
            async with shell.db() as db:
                if start.from_event_id:
                    row = await row_of_event(start.from_event_id, db)
                    sight = rights.now()
                    if sight is None or row is None or not Entry.of_row(row).fits(ANY, sight):
                        raise unknown_event(start.from_event_id)
                return await begins(start, db)
        except NotProjectedYet as error:
            if time.monotonic() > deadline:
                told = f"the cursor is ahead of the log: {error}"
                raise Failure("INVALID_ARGUMENT", told, "cursor") from error
        await asyncio.sleep(LOOK_S)


async def as_text(vector: Vector, shell: Any) -> str:
    """A place as an event holds it."""
    async with shell.db() as db:
        bases = await projected(db)
    return cursors.text_of(vector, {place: base.incarnation for place, base in bases.items()})
