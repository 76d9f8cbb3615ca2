"""Turns events into the read model's rows: ids, batches, schemas.

What LoomDB's archiver deleted by policy leaves the ids too, for a row holds a digest of the
content: an id whose retention is over is as free as one that never was. A rebuild reads the own
topic first, so the row comes before its deletion there too.
"""

import json

from loom.decider import Recorded, Statement
from loom.v1 import data_pb2 as pb
from loom.v1 import loomdb_pb2

__all__ = ["project"]

EVENT_ID = """
INSERT INTO event_ids VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
BATCH = "INSERT INTO batches VALUES (%s, %s, %s, 0, 0, 0, '[]', %s, 0) ON CONFLICT DO NOTHING"
PROCESSED = """
UPDATE batches SET done = %s, events_processed = events_processed + %s,
  duplicates = duplicates + %s, refused = refused || %s::jsonb, finished_at_us = %s
WHERE batch_id = %s
"""
SCHEMA = "INSERT INTO schemas VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
DELETED = "DELETE FROM event_ids WHERE topic = %s AND partition = %s AND record_offset = ANY(%s)"
DEPRECATION = "INSERT INTO deprecations VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"


def project(record: Recorded) -> list[Statement]:
    """The statements that bring the tables from before the event to after it."""
    place = record.position
    match record.event:
        case pb.EventAppended() as event:
            return [
                Statement(
                    EVENT_ID,
                    (
                        event.organisation_id,
                        event.event_id,
                        event.digest,
                        event.stream_id.partition("/")[2],
                        record.version,
                        place.topic,
                        place.partition,
                        place.offset,
                        place.incarnation,
                        event.appended_at_us,
                    ),
                )
            ]
        case pb.BatchAccepted() as event:
            row = (event.batch_id, event.organisation_id, len(event.events), event.accepted_at_us)
            return [Statement(BATCH, row)]
        case pb.BatchProcessed() as event:
            return [Statement(PROCESSED, progress(event))]
        case pb.SchemaRegistered() as event:
            return [Statement(SCHEMA, schema_row(event, record.id))]
        case pb.SchemaDeprecated() as event:
            row = (event.organisation_id, event.event_type, event.schema_version)
            return [Statement(DEPRECATION, row)]
        case loomdb_pb2.ArchiveDeleted() as event:
            return [Statement(DELETED, (event.topic, event.partition, list(event.offsets)))]
        case _:
            return []


def progress(event: pb.BatchProcessed) -> tuple[object, ...]:
    """The parameters of PROCESSED."""
    refused = [
        {"index": one.index, "event_id": one.event_id, "code": one.code, "message": one.message}
        for one in event.refused
    ]
    finished_us = event.at_us if event.finished else 0
    return (
        event.done,
        event.events_processed,
        event.duplicates,
        json.dumps(refused, sort_keys=True),
        finished_us,
        event.batch_id,
    )


def schema_row(event: pb.SchemaRegistered, event_id: str) -> tuple[object, ...]:
    """A registered version; its upcaster is kept as the message that holds it."""
    upcast = pb.EventSchema(upcast=event.upcast).SerializeToString(deterministic=True)
    return (
        event.organisation_id,
        event.event_type,
        event.schema_version,
        event.schema_json,
        event.digest,
        event.compatibility,
        upcast,
        event.at_us,
        event_id,
    )
