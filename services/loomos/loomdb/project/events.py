"""The audit index: one row for each event of every deciding topic.

What a policy deleted has a row in `deleted_events` instead: when, whose, of which type, no more.

A user's event (`event.appended`) stands there as the user told it: his type, story and cause, and
who appended it, also where the service did so for him.

An event that does not say which project or organisation it concerns inherits both from an earlier
event of its own stream: a stream lies in one partition, so a rebuild gives the same rows.

`payload` is what the event says, exactly. `search` is what conditions are asked of, made such that
Postgres can take it whatever it says: what jsonb refuses is replaced there, and only there.
"""

import json
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from loom.decider import Recorded, Statement, partition_shard
from loom.v1 import common_pb2, data_pb2
from loomos.loomdb.filter import own_stream, without_columns
from loomos.loomdb.ranks import CLASSES, rank_of, users_rank
from loomos.loomdb.said import said
from loomos.loomdb.searchable import searchable
from loomos.loomdb.spans import spans_of

__all__ = ["as_told", "owner_of", "project"]

BY_ORGANISATION = ("loomos.security", "loomos.marketplace", "loomos.data", "loomos.loomdb")
BY_PROJECT = ("loomos.checkpoint", "loomos.deployment")
# The stubs type an extension by its field, not by the message it extends.
EVENT: Any = common_pb2.event
# Made once: an encoder costs as much as a short text.
written = json.JSONEncoder(sort_keys=True).encode

INHERITING = """
INSERT INTO audit_events (
  topic, partition, record_offset, incarnation, event_id, type, at_us, actor, stream, version,
  shard, command_id, command_digest, correlation_id, causation_id, payload, search,
  organisation_id, project_id)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s,
  COALESCE(NULLIF(%s, ''), (SELECT organisation_id FROM audit_events
    WHERE topic = %s AND partition = %s AND stream = %s AND organisation_id <> ''
    ORDER BY version LIMIT 1), ''),
  COALESCE(NULLIF(%s, ''), (SELECT project_id FROM audit_events
    WHERE topic = %s AND partition = %s AND stream = %s AND project_id <> ''
    ORDER BY version LIMIT 1), ''))
ON CONFLICT (topic, partition, record_offset) DO NOTHING"""
PLAIN = """
INSERT INTO audit_events (
  topic, partition, record_offset, incarnation, event_id, type, at_us, actor, stream, version,
  shard, command_id, command_digest, correlation_id, causation_id, payload, search,
  organisation_id, project_id)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (topic, partition, record_offset) DO NOTHING"""


GONE = """
INSERT INTO deleted_events VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING"""


def project(record: Recorded) -> list[Statement]:
    """The row of one event."""
    event = record.event
    if isinstance(event, data_pb2.EventAppended):
        record = as_told(record, event)
    place = record.position
    owner = owner_of(record)
    if record.deleted:
        row = (
            *(place.topic, place.partition, place.offset, place.incarnation),
            *(record.id, record.type, record.at_us, record.actor, record.stream),
            *(record.correlation_id, *owner),
        )
        return [Statement(GONE, row)]
    payload, search = documents(event, record.at_us, owner[0])
    row = (
        place.topic,
        place.partition,
        place.offset,
        place.incarnation,
        record.id,
        record.type,
        record.at_us,
        record.actor,
        record.stream,
        record.version,
        record.shard,
        record.command_id,
        record.command_digest,
        record.correlation_id,
        record.causation_id,
        payload,
        search,
    )
    if all(owner) or speaks_for_itself(record):
        return [Statement(PLAIN, (*row, *owner))]
    # Streams of the shell itself have the same names in every topic.
    stream = (place.topic, place.partition, record.stream)
    return [Statement(INHERITING, (*row, owner[0], *stream, owner[1], *stream))]


def documents(event: Message, at_us: int, organisation: str) -> tuple[str, str]:
    """What the event says, and what conditions are asked of, both as JSON."""
    told = said(event)
    # So that GIN, which has no order and no columns, finds one organisation's events of a time.
    keys: dict[str, Any] = {"span": spans_of(at_us), "owner": organisation}
    if not isinstance(event, data_pb2.EventAppended):
        rank = rank_of(event.DESCRIPTOR.GetOptions().Extensions[EVENT].classification)
        return written(told), searchable(without_columns(told, False, CLASSES[rank]) | keys)
    del told["payload"]
    # The user's own text goes in as it came: read and written again it would say the same.
    text = event.payload.decode()
    payload = f'{written(told)[:-1]}, "payload": {text}}}'
    told["payload"] = json.loads(text)
    keys |= {"own_id": event.event_id, "own_stream": own_stream(told)}
    rank = users_rank(told.get("security", {}))
    return payload, searchable(without_columns(told, True, CLASSES[rank]) | keys)


def speaks_for_itself(record: Recorded) -> bool:
    """True where no earlier event of the stream could say more about whom this one concerns."""
    return isinstance(record.event, data_pb2.EventAppended) or record.shard == partition_shard(
        record.position.partition
    )


def as_told(record: Recorded, event: data_pb2.EventAppended) -> Recorded:
    """The record under the user's own names."""
    return record._replace(
        type=event.event_type,
        actor=event.appended_by or record.actor,
        correlation_id=event.correlation_id or record.correlation_id,
        causation_id=event.causation_id or record.causation_id,
    )


def content_of(event: Message) -> object:
    """A user's payload as JSON; a sealed text where all of it is personal."""
    assert isinstance(event, data_pb2.EventAppended)
    return json.loads(event.payload)


def owner_of(record: Recorded) -> tuple[str, str]:
    """The organisation and the project that the event itself names; "" for what it does not."""
    if record.shard == partition_shard(record.position.partition):
        # The shell's own: heartbeats and inputs of a whole partition concern no tenant.
        return "", ""
    project_id = text_of(record.event, "project_id")
    organisation = text_of(record.event, "organisation_id")
    if not project_id and record.position.topic in BY_PROJECT:
        project_id = record.shard
    if not organisation and record.position.topic in BY_ORGANISATION:
        organisation = record.shard
    # A project's id begins with its organisation's.
    return organisation or project_id.partition(".")[0], project_id


def text_of(message: Message, name: str) -> str:
    """A text field of the event or of a message directly in it."""
    direct, parts = holders(message.DESCRIPTOR, name)
    if direct:
        return str(getattr(message, name))
    for part in parts:
        if message.HasField(part):
            return str(getattr(getattr(message, part), name))
    return ""


@cache
def holders(descriptor: Descriptor, name: str) -> tuple[bool, tuple[str, ...]]:
    """Whether a type has a text field of this name, and its parts that have one."""
    parts = (
        field.name
        for field in sorted(descriptor.fields, key=lambda field: field.number)
        if field.message_type is not None
        and not field.is_repeated
        and is_text(field.message_type, name)
    )
    return is_text(descriptor, name), tuple(parts)


def is_text(descriptor: Descriptor, name: str) -> bool:
    """Whether a type has one text under this name."""
    field = descriptor.fields_by_name.get(name)
    return field is not None and field.type == field.TYPE_STRING and not field.is_repeated
