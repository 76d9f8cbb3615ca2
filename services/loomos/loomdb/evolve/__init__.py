"""How LoomDB's state changes with each event, by noun."""

from google.protobuf.message import Message

from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.evolve import alert, keys, retention, subscription
from loomos.loomdb.state import Trail

__all__ = ["evolve"]


def evolve(state: Trail, event: Message) -> None:
    """Fold one event into the state."""
    match event:
        case pb.AuditTrailRead():
            state.reads += 1
        case _:
            retention.evolve(state.retention, event)
            keys.evolve(state.keys, event)
            subscription.evolve(state, event)
            alert.evolve(state.alerts, event)
