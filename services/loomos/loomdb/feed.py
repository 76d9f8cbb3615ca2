"""Writes each organisation's events to its feed, from where it stood, for as long as it is on.

1. The place moves after the brokers have confirmed, under a fencing epoch: at least once, and a
   record that comes again has the same `ce_id`.
2. Only valid events of the organisation, none above the feed's classification; what is sealed in
   them stays sealed, because a topic keeps what an erasure would have to take back. Payloads are
   brought up to their newest schema where the feed says so, as for every other reader.
3. This process has no right to make topics or readers: it says in a file which feeds are on, and
   whoever set up Kafka makes them (`embedded/feeds.py`).
"""

import asyncio
import copy
import json
from typing import Any

from loom.kit.authority import write_secret
from loom.kit.caller import Scope
from loom.log.envelope import cloudevent
from loom.log.feeds import RECORD_BYTES_MAX, FeedRecord, FeedWriter
from loom.log.reader import LogAway
from loom.log.topics import feed_topic
from loom.store import Fenced, Store
from loom.v1 import loomdb_pb2 as pb
from loom.v1.common_pb2 import Attributes
from loomos.loomdb import cursor as cursors
from loomos.loomdb.entry import Entry
from loomos.loomdb.filter import selection
from loomos.loomdb.query.place import AWAY
from loomos.loomdb.query.subscription import feeds_on, progress_name
from loomos.loomdb.sight import CLASSES, Sight
from loomos.loomdb.state import PLATFORM
from loomos.loomdb.stream import Source, tail_of
from loomos.loomdb.upcast import raised

__all__ = ["keep_feeds"]

LOOK_S = 1.0
RETRY_S = 2.0
PULL = 500
PLACE = ("*", 0)
ANY = selection((), (), pb.Filter())


class OwnEvents:
    """What a feed may carry: all events of its organisation."""

    def __init__(self, organisation: str) -> None:
        everything = organisation == PLATFORM
        scope = Scope(everything, [organisation], [])
        self._sight = Sight(organisation, scope, scope)

    def now(self) -> Sight:
        """The same at all times."""
        return self._sight


async def keep_feeds(shell: Any) -> None:
    """Run a task for each feed of an organisation whose shard is owned here."""
    running: dict[tuple[str, int, bool], asyncio.Task[None]] = {}
    named: list[str] | None = None
    async with asyncio.TaskGroup() as tasks:
        while True:
            try:
                async with shell.db() as db:
                    rows = await feeds_on(db)
            except AWAY:
                rows = None
            if rows is not None:
                named = await asyncio.to_thread(name_feeds, shell, rows, named)
                wanted = {
                    (row["organisation_id"], row["classification"], row["upcast"]): row
                    for row in rows
                    if shell.ownership.owns(row["organisation_id"])
                }
                for key in [key for key in running if key not in wanted or running[key].done()]:
                    running.pop(key).cancel()
                for key, row in wanted.items():
                    if key not in running:
                        running[key] = tasks.create_task(one_feed(shell, row))
            await asyncio.sleep(LOOK_S)


def name_feeds(shell: Any, rows: list[dict[str, Any]], before: list[str] | None) -> list[str]:
    """Say in the home which feeds are on, where that changed."""
    wanted = [row["organisation_id"] for row in rows]
    folder = shell.settings.home / "feeds"
    if wanted != before and (wanted or folder.exists()):
        folder.mkdir(mode=0o700, exist_ok=True)
        write_secret(folder / "wanted.json", json.dumps(wanted) + "\n")
    return wanted


async def one_feed(shell: Any, row: dict[str, Any]) -> None:
    """Write one feed until it is taken away."""
    topic = feed_topic(row["organisation_id"]).name
    while True:
        try:
            await written(shell, row, topic)
        except Fenced:
            return
        except (LogAway, *AWAY) as error:
            shell.log.warning("a feed waits", topic=topic, reason=str(error).strip())
        await asyncio.sleep(RETRY_S)


async def written(shell: Any, row: dict[str, Any], topic: str) -> None:
    """Write on from where the feed stands; ends by raising."""
    organisation, tail = row["organisation_id"], tail_of(shell)
    await tail.started()
    name = progress_name(f"feed-{organisation}")
    stored, epoch = await shell.store.claim_position(name, *PLACE, row["begins_at"])
    source = Source(shell, tail, ANY, OwnEvents(organisation), cursors.parse(stored)[0])
    rank_max = row["classification"] - 1
    writer = FeedWriter(shell.settings)
    await writer.start()
    try:
        while True:
            found = [entry for entry in await source.take(PULL) if entry.rank <= rank_max]
            if found:
                await writer.write(topic, await records_of(found, row["upcast"], shell))
            cursor = source.cursor
            if found or (cursor != stored and source.live):
                async with shell.store.connection() as connection:
                    step = (stored, cursor)
                    await Store.move_position(connection, name, *PLACE, step, epoch)
                stored = cursor
            await source.wait(LOOK_S)
    finally:
        await writer.stop()


async def records_of(entries: list[Entry], upcast: bool, shell: Any) -> list[FeedRecord]:
    """Events as the feed has them."""
    shown = {entry: (entry.row["payload"], "") for entry in entries}
    if upcast and (users := [entry for entry in entries if entry.users]):
        # Others hold the same entries.
        payloads = [copy.deepcopy(entry.row["payload"]) for entry in users]
        owners = [entry.organisation for entry in users]
        async with shell.db() as db:
            versions = await raised(zip(owners, payloads, strict=True), db)
        shown |= dict(zip(users, zip(payloads, versions, strict=True), strict=True))
    return [record_of(entry, payload, version) for entry, (payload, version) in shown.items()]


def record_of(entry: Entry, payload: dict[str, Any], version: str) -> FeedRecord:
    """An event as an outsider reads it, its payload by this version of its schema."""
    row = entry.row
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
        version = version or payload["schema_version"]
        attributes["dataschema"] = f"urn:loomos:{entry.type}:{version}"
    return FeedRecord(stream.encode(), value, attributes)
