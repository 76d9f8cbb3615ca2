"""How orders about keys change with each event."""

from google.protobuf.message import Message

from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.state import Keys

__all__ = ["evolve"]


def evolve(state: Keys, event: Message) -> None:
    """Fold one event; other classes change nothing."""
    match event:
        case pb.SubjectErased():
            state.erasing[event.erasure_id] = event.subject
            state.erased[event.subject] = state.erased.get(event.subject, 0) + 1
            state.rotating.pop(event.subject, None)
        case pb.KeyDestroyed():
            state.erasing.pop(event.erasure_id, None)
        case pb.RotationOrdered():
            state.rotating[event.subject] = event.key_id
        case pb.KeyRotated():
            state.rotating.pop(event.subject, None)
        case pb.RewrapOrdered():
            state.rewrapping = True
        case pb.KeysRewrapped():
            state.rewrapping = False
