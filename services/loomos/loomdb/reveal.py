"""The keys' side of LoomDB's door: key ids for a decision, keys and plain values for an answer."""

import asyncio
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from loom import catalogue, personal
from loom.kit.authorize import Caller
from loom.kit.sealing import digests_of
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import query
from loomos.loomdb.decide.keys import blocking
from loomos.loomdb.state import Trail, initial

__all__ = ["answered", "events_in", "key_ids", "may_be_sealed", "newest_key", "revealed"]

PAGE = 100


async def key_ids(organisation_id: str, subject: str, shell: Any) -> list[str]:
    """The keys that die with a subject; none where it has none of its own."""
    store = shell.sealing.keyring.store
    own = await asyncio.to_thread(store.living, organisation_id, subject)
    if not own:
        return []
    digests = await asyncio.to_thread(store.living, organisation_id, digests_of(organisation_id))
    return [key.id for key in (*own, *digests)]


async def newest_key(organisation_id: str, subject: str, shell: Any) -> str:
    """The key that seals what is new of a subject; "" where there is none."""
    found = await asyncio.to_thread(shell.sealing.keyring.store.living, organisation_id, subject)
    return found[-1].id if found else ""


async def answered(command: Message, db: Any, shell: Any) -> Message | None:
    """What was asked about keys; None where the question was about something else."""
    match command:
        case pb.ListKeysRequest():
            return await list_keys(command, db, shell)
        case pb.PreviewErasureRequest():
            found = await query.preview_erasure(command, db)
            found.key_ids.extend(await key_ids(command.organisation_id, command.subject, shell))
            state = state_of(command.organisation_id, shell)
            found.holds.extend(blocking(state, command.subject))
            return found
        case pb.GetErasureRequest():
            return await query.get_erasure(command, db)
        case pb.ListErasuresRequest():
            return await query.list_erasures(command, db)
        case _:
            return None


async def list_keys(command: pb.ListKeysRequest, db: Any, shell: Any) -> pb.KeyPage:
    """Keys of the keystore and those that erasures destroyed, by id."""
    store = shell.sealing.keyring.store
    living = await asyncio.to_thread(store.living, command.organisation_id, command.subject)
    keys = [
        pb.SealingKey(
            key_id=key.id,
            subject=key.subject,
            number=key.number,
            algorithm=key.algorithm.name,
            kek_id=key.kek_id,
            created_at_us=key.created_at_us,
        )
        for key in living
    ]
    keys += await query.dead_keys(command.organisation_id, command.subject, db)
    keys.sort(key=lambda key: key.key_id)
    rest = [key for key in keys if key.key_id > command.cursor]
    limit = command.limit or PAGE
    return pb.KeyPage(
        keys=rest[:limit], next_cursor=rest[limit - 1].key_id if len(rest) > limit else ""
    )


def state_of(organisation_id: str, shell: Any) -> Trail:
    """What is folded of an organisation here, an empty state where nothing is."""
    commander = shell.ownership.commander_of(organisation_id)
    if commander is None or commander.desk is None:
        return initial(organisation_id)
    return commander.desk.folder.states.get(organisation_id) or initial(organisation_id)


async def revealed(answer: Message, caller: Caller, shell: Any) -> Message:
    """The answer with what is sealed in its events as the caller may read it; changes it."""
    for event in filter(may_be_sealed, events_in(answer)):
        payload = json_format.MessageToDict(event.payload)
        shown = await shell.sealing.open_dict(event.type, payload, event.event_id, caller)
        if shown is not payload:
            event.payload.Clear()
            event.payload.update(shown)
    return answer


def may_be_sealed(event: pb.AuditEvent) -> bool:
    """Whether something personal may be in it; told without reading the payload."""
    said = event.payload.fields
    if "append_id" in said and "event_type" in said:
        return "sealed_paths" in said
    kind = catalogue.events().get(event.type)
    return kind is not None and personal.has_any(kind.DESCRIPTOR)


def events_in(answer: Message) -> list[pb.AuditEvent]:
    """The events of the index that an answer holds, at any depth."""
    if isinstance(answer, pb.AuditEvent):
        return [answer]
    found: list[pb.AuditEvent] = []
    for field, value in answer.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if field.message_type.file.name != answer.DESCRIPTOR.file.name:
            continue
        for one in value if field.is_repeated else [value]:
            found += events_in(one)
    return found
