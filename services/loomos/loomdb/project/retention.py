"""Tables of rules, holds and archived ranges; content that a policy deleted leaves the index."""

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from loom.decider import Recorded, Statement
from loom.v1 import loomdb_pb2 as pb

__all__ = ["project"]


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
            return [
                Statement(
                    "INSERT INTO archived_ranges (topic, partition, first_offset, range) "
                    "VALUES (%s, %s, %s, %s) ON CONFLICT (topic, partition, first_offset) "
                    "DO UPDATE SET range = EXCLUDED.range",
                    (told.topic, told.partition, told.first_offset, shown(told)),
                )
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
            return [
                Statement(
                    "DELETE FROM audit_events WHERE topic = %s AND partition = %s "
                    "AND record_offset = ANY(%s)",
                    (event.topic, event.partition, list(event.offsets)),
                )
            ]
    return []


def shown(message: Message) -> str:
    """A message as JSON text."""
    return MessageToJson(message, preserving_proto_field_name=True, sort_keys=True, indent=None)
