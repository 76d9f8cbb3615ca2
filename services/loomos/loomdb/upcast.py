"""Users' events by the newest version of their schema, for readers who ask for it.

1. What is stored stays as it is: `payload.schema_version` names the version by which the event was
   taken, `upcast_version` the one by which its payload is shown.
2. The steps are those of the organisation's own versions, in their order, up to the newest that
   takes events; a version without steps, or one of the built-in catalogue, changes nothing.
3. A reader's right comes first: what he may not read is moved as the mark that stands for it.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from google.protobuf import json_format

from loom.payload import upcast
from loom.store import Connection
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb

__all__ = ["Version", "brought_up", "lifted", "raised"]

REGISTERED, DEPRECATED = "schema.registered", "schema.deprecated"
VERSIONS = """
SELECT stream, type, payload FROM audit_events WHERE topic = 'loomos.data' AND stream = ANY(%s)
AND type IN ('schema.registered', 'schema.deprecated')
ORDER BY stream, version
"""


class Version(NamedTuple):
    """A version of a type's schema, and what brings a payload from the one before to it."""

    order: tuple[int, ...]
    text: str
    steps: tuple[data_pb2.UpcastStep, ...]


async def lifted(events: Iterable[pb.AuditEvent], db: Connection) -> None:
    """Show each user's event by its newest version, in place; all others stay as they are."""
    found = [event for event in events if "append_id" in event.payload.fields]
    told = [json_format.MessageToDict(event.payload) for event in found]
    owned = [(event.organisation_id, row) for event, row in zip(found, told, strict=True)]
    for event, row, version in zip(found, told, await raised(owned, db), strict=True):
        event.upcast_version = version
        if version:
            event.payload.update(row)


async def raised(owned: Iterable[tuple[str, dict[str, Any]]], db: Connection) -> list[str]:
    """Bring users' events, each beside its organisation, to their newest versions, in place.

    The versions by which they are shown then; "" where it is the stored one.
    """
    found = [(f"{owner}/schemas/{row['event_type']}", row) for owner, row in owned]
    known = await versions_of({stream for stream, _ in found}, db) if found else {}
    return [
        brought_up(row.get("payload"), str(row.get("schema_version", "")), known.get(stream, []))
        for stream, row in found
    ]


async def versions_of(streams: Iterable[str], db: Connection) -> dict[str, list[Version]]:
    """By stream of a schema, the versions up to the newest that takes events, oldest first.

    No user's own stream has such a name.
    """
    cursor = await db.execute(VERSIONS, (sorted(streams),))
    rows = await cursor.fetchall()
    ended = {
        (row["stream"], row["payload"].get("schema_version"))
        for row in rows
        if row["type"] == DEPRECATED
    }
    known: dict[str, list[Version]] = {}
    for row in rows:
        if row["type"] == REGISTERED:
            event = json_format.ParseDict(row["payload"], data_pb2.SchemaRegistered())
            known.setdefault(row["stream"], []).append(version_of(event))
    for stream, versions in known.items():
        versions.sort()
        while versions and (stream, versions[-1].text) in ended:
            versions.pop()
    return known


def version_of(event: data_pb2.SchemaRegistered) -> Version:
    """What a registration says."""
    return Version(order(event.schema_version), event.schema_version, tuple(event.upcast))


def order(text: str) -> tuple[int, ...]:
    """A semantic version as numbers that compare."""
    return tuple(map(int, text.split(".")))


def brought_up(content: Any, stored: str, versions: list[Version]) -> str:
    """The version that the content is of now, changed in place; "" where it is the stored one."""
    if not stored or not isinstance(content, dict):
        # The second where all of it is sealed from its reader.
        return ""
    later = [one for one in versions if one.order > order(stored)]
    for one in later:
        upcast(content, one.steps)
    return later[-1].text if later else ""
