"""An event as an outsider reads it in a topic: a CloudEvent with its own content as JSON."""

import json

from loom.log.envelope import cloudevent
from loom.log.feeds import RECORD_BYTES_MAX, FeedRecord
from loom.v1.common_pb2 import Attributes
from loomos.loomdb.entry import Entry
from loomos.loomdb.sight import CLASSES

__all__ = ["record_of"]


def record_of(entry: Entry) -> FeedRecord:
    """An event as an outsider reads it."""
    row = entry.row
    payload = row["payload"]
    content = payload["payload"] if entry.users else payload
    value = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    stream = row["stream"].partition("/")[2] if entry.users else row["stream"]
    extensions = {
        "dataclassification": CLASSES[entry.rank],
        "originincarnation": str(row["incarnation"]),
        "originoffset": str(entry.offset),
        "originpartition": str(entry.place[1]),
        "origintopic": entry.place[0],
        "partitionkey": stream,
    }
    if entry.users:
        extensions["eventid"] = payload["event_id"]
    if entry.project:
        extensions["project"] = entry.project
    if len(value) > RECORD_BYTES_MAX:
        # Too large for a topic's record: where it can be had stands in its place.
        path = f"/api/v1/organisations/{entry.organisation}/audit/events/{row['event_id']}"
        value, extensions["dataref"] = b"", path
    said = Attributes(
        id=row["event_id"],
        type=entry.type,
        schema_version=1,
        subject=stream,
        sequence=row["version"],
        time_us=row["at_us"],
        source=f"/{entry.place[0].replace('.', '/')}",
        authid=row["actor"],
        commandid=row["command_id"],
        correlationid=row["correlation_id"],
        causationid=row["causation_id"],
        extensions=extensions,
    )
    attributes = cloudevent(said)
    if entry.users:
        attributes["dataschema"] = f"urn:loomos:{entry.type}:{payload['schema_version']}"
    return FeedRecord(stream.encode(), value, attributes)
