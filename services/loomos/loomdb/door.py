"""Answers a read of the audit trail after the log has its record."""

import asyncio
from typing import Any

from google.protobuf.message import Message

from loom.kit.authorize import Caller
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import query
from loomos.loomdb.seal import trees_of

__all__ = ["answer"]


async def answer(command: Message, receipt: Message, caller: Caller, shell: Any) -> Message:
    """What was asked for, from the index or from the trees."""
    trees = trees_of(shell.settings)
    match command:
        case pb.GetProofRequest():
            return await asyncio.to_thread(trees.inclusion, command)
        case pb.GetCheckpointRequest():
            return await asyncio.to_thread(trees.checkpoint, command)
        case pb.CheckConsistencyRequest():
            return await asyncio.to_thread(trees.consistency, command)
    async with shell.db() as db:
        match command:
            case pb.GetEventRequest():
                return await query.get_event(command, caller, db)
            case pb.ListEventsRequest():
                return await query.list_events(command, caller, db)
            case pb.GetStoryRequest():
                return await query.get_story(command, caller, db)
    raise TypeError(f"loomdb has no answer to {command.DESCRIPTOR.full_name}")
