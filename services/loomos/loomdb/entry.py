"""One event as streams hold it: decoded once, shown to as many readers as may see it.

1. What is slow to make (payload, document, answer) is made when the first reader wants it.
2. From the log or from the audit index, it is the same: both say the index's row.
"""

from typing import Any

from google.protobuf.json_format import MessageToDict

from loom import catalogue
from loom.decider import Recorded
from loom.v1 import common_pb2, data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.cursor import Place
from loomos.loomdb.filter import Document, Selection, document
from loomos.loomdb.project.events import as_told, content_of
from loomos.loomdb.query.answers import event_of
from loomos.loomdb.sight import CLASSES, Sight, rank_of, users_rank

__all__ = ["Entry"]

DATA = "loomos.data"
# The stubs type an extension by its field, not by the message it extends.
EVENT: Any = common_pb2.event


class Entry:
    """An event with its owner; compared by identity."""

    __slots__ = (
        "_document",
        "_event",
        "_rank",
        "_row",
        "offset",
        "organisation",
        "place",
        "project",
        "recorded",
        "type",
    )

    def __init__(
        self, place: Place, offset: int, kind: str, organisation: str, project: str
    ) -> None:
        self.place = place
        self.offset = offset
        self.type = kind
        self.organisation = organisation
        self.project = project
        self.recorded: Recorded | None = None
        """The record as it was read; None for what came from the index."""
        self._row: dict[str, Any] | None = None
        self._event: pb.AuditEvent | None = None
        self._document: Document | None = None
        self._rank = -1

    @classmethod
    def of_record(cls, recorded: Recorded, organisation: str, project: str) -> "Entry":
        """A record that was read from the log."""
        if isinstance(recorded.event, data_pb2.EventAppended):
            recorded = as_told(recorded, recorded.event)
        at = recorded.position
        entry = cls((at.topic, at.partition), at.offset, recorded.type, organisation, project)
        entry.recorded = recorded
        return entry

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> "Entry":
        """A row of the audit index."""
        place = (row["topic"], row["partition"])
        entry = cls(
            place, row["record_offset"], row["type"], row["organisation_id"], row["project_id"]
        )
        entry._row = row
        return entry

    @property
    def row(self) -> dict[str, Any]:
        """The event as the index holds it."""
        if self._row is None:
            assert self.recorded is not None
            self._row = row_of(self.recorded, self.organisation, self.project)
        return self._row

    @property
    def event(self) -> pb.AuditEvent:
        """The event as readers are told it."""
        if self._event is None:
            self._event = event_of(self.row)
        return self._event

    @property
    def users(self) -> bool:
        """Whether a user appended it."""
        if self.place[0] != DATA:
            return False
        if self.recorded is not None:
            return isinstance(self.recorded.event, data_pb2.EventAppended)
        payload = self.row["payload"]
        return "append_id" in payload and payload.get("event_type") == self.type

    @property
    def rank(self) -> int:
        """How high it is classified."""
        if self._rank < 0:
            self._rank = self._classified()
        return self._rank

    def _classified(self) -> int:
        if self.users:
            return users_rank(self.row["payload"].get("security", {}))
        known = catalogue.events().get(self.type)
        options = known.DESCRIPTOR.GetOptions().Extensions[EVENT] if known else None
        return rank_of(options.classification if options else "")

    @property
    def key(self) -> tuple[str, int, str]:
        """What keeps its order: the stream, which lies in one partition."""
        stream = self.recorded.stream if self.recorded is not None else self.row["stream"]
        return (*self.place, stream)

    def fits(self, selection: Selection, sight: Sight) -> bool:
        """Whether a reader asked for it and may see it."""
        if not sight.asked(self.organisation) or not selection.wants_type(self.type):
            return False
        # Who reads the trail sees any class: the payload need not be looked at.
        if not sight.sees(self.organisation, self.project, False, 0) and not sight.sees(
            self.organisation, self.project, self.users, self.rank
        ):
            return False
        return selection.holds is None or selection.holds(self.document)

    @property
    def document(self) -> Document:
        """The event as conditions see it."""
        if self._document is None:
            row = self.row
            self._document = document(row, row["payload"], self.users, CLASSES[self.rank])
        return self._document


def row_of(recorded: Recorded, organisation: str, project: str) -> dict[str, Any]:
    """What the audit index says of a record."""
    payload = MessageToDict(recorded.event, preserving_proto_field_name=True)
    if isinstance(recorded.event, data_pb2.EventAppended):
        payload["payload"] = content_of(recorded.event)
    at = recorded.position
    return {
        "topic": at.topic,
        "partition": at.partition,
        "record_offset": at.offset,
        "incarnation": at.incarnation,
        "event_id": recorded.id,
        "type": recorded.type,
        "at_us": recorded.at_us,
        "actor": recorded.actor,
        "stream": recorded.stream,
        "version": recorded.version,
        "shard": recorded.shard,
        "organisation_id": organisation,
        "project_id": project,
        "command_id": recorded.command_id,
        "correlation_id": recorded.correlation_id,
        "causation_id": recorded.causation_id,
        "payload": payload,
    }
