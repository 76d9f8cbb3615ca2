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
from loomos.loomdb import beginning, proving, query, reporting, reveal, sealed_target
from loomos.loomdb.decide import PLATFORM
from loomos.loomdb.seal import trees_of
from loomos.loomdb.upcast import lifted

__all__ = ["answer", "prepare"]

COMPARE_S = 20.0


async def prepare(command: Message, caller: Caller, shell: Any) -> Message:
    """The command with what the keystore knows; what a caller sent there is written over."""
    match command:
        case pb.EraseSubjectRequest():
            del command.key_ids[:]
            found = await reveal.key_ids(command.organisation_id, command.subject, shell)
            command.key_ids.extend(found)
        case pb.RotateKeyRequest():
            newest = await reveal.newest_key(command.organisation_id, command.subject, shell)
            command.key_id = newest
        case pb.CreateSubscriptionRequest():
            command.begins_at = await beginning.of_subscription(command, caller, shell)
        case pb.CreateAlertRuleRequest():
            command.begins_at = await beginning.of_now(shell)
        case pb.CreateNotifyTargetRequest():
            return await sealed_target.sealed(command, caller, shell)
        case pb.EnableFeedRequest():
            command.begins_at = await beginning.of_feed(command, shell)
        case (
            pb.ReportAccessRequest()
            | pb.ReportActivityRequest()
            | pb.ReportLineageRequest()
            | pb.ReportSubjectRequest()
        ):
            return await reporting.prepared(command, caller, shell)
    return command


async def answer(command: Message, receipt: Message, caller: Caller, shell: Any) -> Message:
    """What was asked for, with what is sealed in it as the caller may read it."""
    match command:
        case (
            pb.ReportAccessRequest()
            | pb.ReportActivityRequest()
            | pb.ReportLineageRequest()
            | pb.ReportSubjectRequest()
        ):
            return await reporting.answered(command, receipt, caller, shell)
    found = await reveal.revealed(await looked_up(command, caller, shell), caller, shell)
    match command:
        case (
            pb.GetEventRequest(upcast=True)
            | pb.ListEventsRequest(upcast=True)
            | pb.SearchEventsRequest(upcast=True)
        ):
            action = command.DESCRIPTOR.name.removesuffix("Request")
            async with shell.past(command.as_of, caller, action) as db:
                await lifted(reveal.events_in(found), db)
    return found


async def looked_up(command: Message, caller: Caller, shell: Any) -> Message:
    """What was asked for, from the index, the trees or the keystore."""
    trees = trees_of(shell)
    match command:
        case pb.GetProofRequest():
            return await asyncio.to_thread(trees.inclusion, command)
        case pb.GetCheckpointRequest():
            return await asyncio.to_thread(trees.checkpoint, command)
        case pb.CheckConsistencyRequest():
            return await asyncio.to_thread(trees.consistency, command)
        case pb.GetEventProofRequest():
            return await proving.event_proof(command, caller, shell, trees)
        case pb.ProveEventsRequest():
            return await proving.event_proofs(command, caller, shell, trees)
        case pb.ReadTreeEntriesRequest():
            return await proving.entries_of(command, trees)
        case pb.ExportRecordsRequest():
            return await proving.records_of(command, caller, shell, trees)
        case pb.CompareMomentsRequest():
            return await compared(command, caller, shell)
        case pb.RunAuditSqlRequest():
            return await query.run_audit_sql(command, caller, shell)
    action = command.DESCRIPTOR.name.removesuffix("Request")
    async with shell.past(getattr(command, "as_of", ""), caller, action) as db:
        about_keys = await reveal.answered(command, db, shell)
        if about_keys is not None:
            return about_keys
        match command:
            case pb.GetEventRequest():
                return await query.get_event(command, caller, db)
            case pb.ListEventsRequest():
                return await query.list_events(command, caller, db)
            case pb.GetStoryRequest():
                return await query.get_story(command, caller, db)
            case pb.WalkCausesRequest():
                return await query.walk_causes(command, caller, db)
            case pb.SearchEventsRequest():
                return await query.search_events(command, caller, db)
            case pb.AnalyzeEventsRequest():
                return await query.analyze_events(command, caller, db)
            case pb.GetLogRetentionRequest():
                return await query.get_log_retention(command, caller, db)
            case pb.ListArchiveRequest():
                return await query.list_archive(command, caller, db)
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
    from_us = await shell.travels.time_of(command.from_moment, caller, action, "from_moment")
    to_us = await shell.travels.time_of(command.to_moment, caller, action, "to_moment")
    if to_us < from_us:
        told = f"to_moment is {command.to_moment!r}, earlier than {command.from_moment!r}"
        raise Rejected(Code.INVALID_ARGUMENT, f"{told}: give the earlier one first", "to_moment")
    request = travel_pb2.ListChangesRequest(
        table=command.table,
        row_id=command.row_id,
        from_us=from_us,
        to_us=to_us,
        all=scope.all and everything,
        organisations=organisations,
        projects=[one for one in scope.projects if everything or one.partition(".")[0] == own],
        limit=command.limit,
    )
    return await shell.client.call(request, Headers(), COMPARE_S, service=command.service)
