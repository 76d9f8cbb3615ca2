"""What the log itself says of the archive: which content a policy deleted, which ranges there are.

1. Only events that stand in the signed tree of `loomos.loomdb` are believed: whoever compares a
   record with its leaf hands it on to `hear` when the two agree.
2. An offset costs two bytes, however many were deleted.
"""

from array import array
from bisect import bisect_left
from typing import NamedTuple

from google.protobuf.message import DecodeError

from loom import catalogue
from loom.log import envelope
from loom.v1 import loomdb_pb2

from .segments import Stored

__all__ = ["TOPIC", "Deletion", "Deletions"]

TOPIC = "loomos.loomdb"
EVENTS = {
    catalogue.type_of(event.DESCRIPTOR): event
    for event in (loomdb_pb2.ArchiveDeleted, loomdb_pb2.ArchiveSealed, loomdb_pb2.ArchiveReplaced)
}
PART = 1 << 16
"""Offsets are kept by the part of the log that they lie in."""

Place = tuple[str, int]


class Deletion(NamedTuple):
    """What allowed that the content of records goes."""

    policy: str
    event_id: str


class Deletions:
    """What `archive.deleted` allows, and what `archive.sealed` and `archive.replaced` tell of."""

    def __init__(self) -> None:
        self.ends: dict[Place, int] = {}
        """The offset behind the last archived range of a partition."""
        self._allowed: dict[tuple[str, int, int], list[tuple[Deletion, array[int]]]] = {}

    def hear(self, stored: Stored) -> None:
        """Take a record of `loomos.loomdb` that is as it was signed."""
        try:
            said = envelope.attributes_in(stored.headers)
            if said.type not in EVENTS:
                return
            event = EVENTS[said.type].FromString(stored.value or b"")
        except (catalogue.Undecodable, DecodeError):
            return
        match event:
            case loomdb_pb2.ArchiveDeleted():
                deletion = Deletion(event.policy, said.id)
                for offset in sorted(event.offsets):
                    self._allow((event.topic, event.partition, offset // PART), deletion, offset)
            case loomdb_pb2.ArchiveSealed() | loomdb_pb2.ArchiveReplaced():
                told = event.range
                place = (told.topic, told.partition)
                self.ends[place] = max(self.ends.get(place, 0), told.next_offset)

    def _allow(self, part: tuple[str, int, int], deletion: Deletion, offset: int) -> None:
        known = self._allowed.setdefault(part, [])
        if not known or known[-1][0] != deletion:
            known.append((deletion, array("H")))
        known[-1][1].append(offset % PART)

    def of(self, topic: str, partition: int, offset: int) -> Deletion | None:
        """What first allowed that a record's content is gone; None where nothing did."""
        for deletion, offsets in self._allowed.get((topic, partition, offset // PART), ()):
            place = bisect_left(offsets, offset % PART)
            if place < len(offsets) and offsets[place] == offset % PART:
                return deletion
        return None
