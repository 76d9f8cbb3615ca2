"""Answers a read of the audit trail after the log has its record."""

import asyncio
from typing import Any

from google.protobuf.message import Message

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.kit.call import Headers
from loom.log.topics import DECIDING
from loom.v1 import loomdb_pb2 as pb
from loom.v1 import travel_pb2
from loomos.loomdb import query
from loomos.loomdb.decide import PLATFORM
from loomos.loomdb.seal import trees_of

__all__ = ["answer"]

COMPARE_S = 20.0


async def answer(command: Message, receipt: Message, caller: Caller, shell: Any) -> Message:
    """What was asked for, from the index or from the trees."""
    trees = trees_of(shell)
    match command:
        case pb.GetProofRequest():
            return await asyncio.to_thread(trees.inclusion, command)
        case pb.GetCheckpointRequest():
            return await asyncio.to_thread(trees.checkpoint, command)
        case pb.CheckConsistencyRequest():
            return await asyncio.to_thread(trees.consistency, command)
        case pb.CompareMomentsRequest():
            return await compared(command, caller, shell)
    action = command.DESCRIPTOR.name.removesuffix("Request")
    async with shell.past(getattr(command, "as_of", ""), caller, action) as db:
        match command:
            case pb.GetEventRequest():
                return await query.get_event(command, caller, db)
            case pb.ListEventsRequest():
                return await query.list_events(command, caller, db)
            case pb.GetStoryRequest():
                return await query.get_story(command, caller, db)
            case pb.WalkCausesRequest():
                return await query.walk_causes(command, caller, db)
    raise TypeError(f"loomdb has no answer to {command.DESCRIPTOR.full_name}")


async def compared(command: pb.CompareMomentsRequest, caller: Caller, shell: Any) -> Message:
    """What changed in another service's tables, asked of it with the caller's rights."""
    if command.service not in DECIDING:
        told = f"no service {command.service!r}: there are {', '.join(DECIDING)}"
        raise Rejected(Code.NOT_FOUND, told, "service")
    action = "CompareMoments"
    scope = caller.scope(action)
    own = command.organisation_id
    everything = own == PLATFORM
    organisations = scope.organisations
    if not everything:
        organisations = [own] if scope.all or own in scope.organisations else []
    request = travel_pb2.ListChangesRequest(
        table=command.table,
        row_id=command.row_id,
        from_us=await shell.travels.time_of(command.from_moment, caller, action, "from_moment"),
        to_us=await shell.travels.time_of(command.to_moment, caller, action, "to_moment"),
        all=scope.all and everything,
        organisations=organisations,
        projects=[one for one in scope.projects if everything or one.partition(".")[0] == own],
        limit=command.limit,
    )
    return await shell.client.call(request, Headers(), COMPARE_S, service=command.service)
