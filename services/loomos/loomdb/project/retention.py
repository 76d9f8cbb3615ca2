"""Tables of rules, holds and archived ranges; content that a policy deleted leaves the index."""

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from loom.decider import Recorded, Statement
from loom.v1 import loomdb_pb2 as pb

__all__ = ["project"]

ALLOWED = """
INSERT INTO policy_deletions SELECT %s, %s, unnest(%s::bigint[]), %s, %s, %s, %s
ON CONFLICT DO NOTHING"""
IN_RANGE = """
USING policy_deletions AS d WHERE d.topic = e.topic AND d.partition = e.partition
  AND d.record_offset = e.record_offset AND d.topic = %s AND d.partition = %s
  AND d.record_offset >= %s AND d.record_offset < %s"""
# Once more when the range was written anew: a record that an index being made meets between the
# two still says everything.
MOVED = f"""
WITH gone AS (DELETE FROM audit_events AS e {IN_RANGE}
  RETURNING e.topic, e.partition, e.record_offset, e.incarnation, e.event_id, e.type, e.at_us,
    e.actor, e.stream, e.correlation_id, e.organisation_id, e.project_id)
INSERT INTO deleted_events SELECT * FROM gone ON CONFLICT DO NOTHING"""  # noqa: S608 - constants
UNSEALED = f"DELETE FROM sealed_events AS e {IN_RANGE}"  # noqa: S608 - constants


def project(record: Recorded) -> list[Statement]:
    """The statements of one event."""
    match record.event:
        case pb.LogRetentionSet() as event:
            return [
                Statement(
                    "INSERT INTO retention_rules (organisation_id, rules) VALUES (%s, %s) "
                    "ON CONFLICT (organisation_id) DO UPDATE SET rules = EXCLUDED.rules",
                    (event.organisation_id, shown(event)),
                )
            ]
        case pb.HoldPlaced() as event:
            return [
                Statement(
                    "INSERT INTO holds (hold_id, organisation_id, placed_at_us, hold) "
                    "VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (event.hold_id, event.organisation_id, event.placed_at_us, shown(event)),
                )
            ]
        case pb.HoldReleased() as event:
            return [Statement("DELETE FROM holds WHERE hold_id = %s", (event.hold_id,))]
        case pb.ArchiveSealed() | pb.ArchiveReplaced() as event:
            told = event.range
            place = (told.topic, told.partition, told.first_offset, told.next_offset)
            return [
                *(Statement(text, place) for text in (MOVED, UNSEALED)),
                Statement(
                    "INSERT INTO archived_ranges (topic, partition, first_offset, range) "
                    "VALUES (%s, %s, %s, %s) ON CONFLICT (topic, partition, first_offset) "
                    "DO UPDATE SET range = EXCLUDED.range",
                    (told.topic, told.partition, told.first_offset, shown(told)),
                ),
            ]
        case pb.LogShortened() as event:
            return [
                Statement(
                    "INSERT INTO log_beginnings (topic, partition, first_offset) "
                    "VALUES (%s, %s, %s) ON CONFLICT (topic, partition) "
                    "DO UPDATE SET first_offset = EXCLUDED.first_offset",
                    (event.topic, event.partition, int(event.base.split(":")[1])),
                )
            ]
        case pb.ArchiveDeleted() as event:
            at, offsets = record.position, list(event.offsets)
            allowed = (offsets, event.policy, record.id, at.partition, at.offset)
            place = (event.topic, event.partition, offsets[0], offsets[-1] + 1)
            return [
                Statement(ALLOWED, (event.topic, event.partition, *allowed)),
                *(Statement(text, place) for text in (MOVED, UNSEALED)),
            ]
    return []


def shown(message: Message) -> str:
    """A message as JSON text."""
    return MessageToJson(message, preserving_proto_field_name=True, sort_keys=True, indent=None)
