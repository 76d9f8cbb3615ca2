"""Which records' content a policy deleted, as the log itself says.

1. Only events that stand in the signed tree of `loomos.loomdb` are believed: whoever compares a
   record with its leaf hands it on to `hear` when the two agree.
"""

from typing import NamedTuple

from google.protobuf.message import DecodeError

from loom.log import catalogue, envelope
from loom.v1 import loomdb_pb2

from .segments import Stored

__all__ = ["TOPIC", "Deletion", "Deletions"]

TOPIC = "loomos.loomdb"
TYPE = catalogue.type_of(loomdb_pb2.ArchiveDeleted.DESCRIPTOR)


class Deletion(NamedTuple):
    """What allowed that the content of records goes."""

    policy: str
    event_id: str


class Deletions:
    """What the events `archive.deleted` allow."""

    def __init__(self) -> None:
        self._allowed: dict[tuple[str, int], dict[int, Deletion]] = {}

    def hear(self, stored: Stored) -> None:
        """Take a record of `loomos.loomdb` that is as it was signed."""
        try:
            said = envelope.attributes_in(stored.headers)
            if said.type != TYPE:
                return
            event = loomdb_pb2.ArchiveDeleted.FromString(stored.value or b"")
        except (catalogue.Undecodable, DecodeError):
            return
        place = self._allowed.setdefault((event.topic, event.partition), {})
        for offset in event.offsets:
            place.setdefault(offset, Deletion(event.policy, said.id))

    def of(self, topic: str, partition: int, offset: int) -> Deletion | None:
        """What allowed that a record's content is gone; None where nothing did."""
        return self._allowed.get((topic, partition), {}).get(offset)
