"""How the trail of reads changes with each event."""

from google.protobuf.message import Message

from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.state import Trail

__all__ = ["evolve"]


def evolve(state: Trail, event: Message) -> None:
    """Fold one event into the state."""
    match event:
        case pb.AuditTrailRead():
            state.reads += 1
