"""How rules, holds and the archive's ranges change with each event."""

from google.protobuf.message import Message

from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.state import HeldBy, Range, Retention

__all__ = ["evolve"]


def evolve(state: Retention, event: Message) -> None:
    """Fold one event; other classes change nothing. The archiver folds all organisations' so."""
    match event:
        case pb.LogRetentionSet():
            state.rules[event.organisation_id] = list(event.rules)
        case pb.HoldPlaced():
            state.holds[event.hold_id] = HeldBy(
                event.organisation_id,
                event.scope.subject,
                event.scope.correlation_id,
                event.scope.type_pattern,
            )
        case pb.HoldReleased():
            del state.holds[event.hold_id]
        case pb.ArchiveRequested():
            state.runs[event.run_id] = event
        case pb.ArchiveRunFinished():
            state.runs.pop(event.run_id, None)
        case pb.ArchiveSealed() | pb.ArchiveReplaced():
            told = event.range
            state.ranges.setdefault((told.topic, told.partition), {})[told.first_offset] = Range(
                told.first_offset,
                told.next_offset,
                told.rows,
                told.generation,
                told.level,
                told.base_after,
                told.last_ms,
                told.deleted,
            )
        case pb.LogShortened():
            # A base's text begins with incarnation and offset.
            state.begins[event.topic, event.partition] = int(event.base.split(":")[1])
        case pb.ArchiveDeleted():
            place = (event.topic, event.partition, event.first_offset)
            done = state.deleted.get(place, frozenset())
            state.deleted[place] = done | frozenset(event.offsets)
