"""What LoomDB's events cause outside the log, by noun."""

from typing import Any

from loom.decider import Command, Recorded
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.effect import alert, keys

__all__ = ["effect"]


async def effect(record: Recorded, shell: Any) -> list[Command]:
    """The commands that report what was done; none for events that concern nobody outside."""
    match record.event:
        case pb.SubjectErased() | pb.RotationOrdered() | pb.RewrapOrdered():
            return await keys.effect(record, shell)
        case pb.AlertRaised() | pb.AlertAcknowledged() | pb.AlertResolved() | pb.AlertSuppressed():
            return await alert.effect(record, shell)
        case _:
            return []
