"""The archiver: moves what is due from Kafka to the archive, and what is over out of it.

1. It acts on decided events alone, and on all of them: before each step it reads `loomos.loomdb` to
   its end, so that a hold that was acknowledged counts.
2. An object is reported only after it was read back and compared with the signed tree; Kafka is
   told to forget only after that is in the log and the object was compared once more.
3. One archiver works at a time: a lock on the home. A crash at any point leaves work that the next
   round finishes; nothing is done by halves.
"""

import asyncio
import fcntl
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loom.catalogue import Undecodable
from loom.decider import Recorded
from loom.kit.errors import Failure
from loom.log import archiver
from loom.log.archive import Manifest, fetch, manifests, newest
from loom.log.clock import now_us
from loom.log.cold import cache_of
from loom.log.depot import Depot, DepotAway, ObjectDiffers, depot_of
from loom.log.judge import Kind
from loom.log.note import InvalidNote, Verifier
from loom.log.parquet import (
    LEVEL_LATER,
    Archived,
    Columns,
    DamagedArchive,
    columns_in,
    columns_of,
    decoded,
)
from loom.log.reader import Judged, LogAway, LogDiverged
from loom.log.shorten import shorten
from loom.log.tiles import DamagedTree
from loom.log.topics import TOPICS
from loom.log.verify import Sealed
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.ledger import Ledger, Run
from loomos.loomdb.project.events import as_told, owner_of
from loomos.loomdb.retention import DAY_US, DEFAULTS, Due, due_of, reduced
from loomos.loomdb.state import PLATFORM

__all__ = ["archive"]

EVERY_S = 3600.0
LOOK_S = 24 * 3600.0
"""How often an archived range is looked through for what may be recompressed or deleted."""
RETRY_S = 5.0
TROUBLE = (DamagedArchive, DamagedTree, InvalidNote, LogDiverged, ObjectDiffers, Undecodable)
AWAY = (LogAway, DepotAway, Failure, TimeoutError, OSError)


async def archive(shell: Any) -> None:
    """Archive by policy for as long as the process lives."""
    depot = depot_of(shell.settings)
    if depot is None:
        return
    lock_path = shell.settings.home / "archiver.lock"
    with lock_path.open("w") as lock:
        while not locked(lock.fileno()):  # noqa: ASYNC110 - another process holds it
            await asyncio.sleep(RETRY_S)
        while True:
            ledger = Ledger(shell.settings)
            try:
                await ledger.start()
                await ledger.catch_up()
                await work(shell, depot, ledger)
            except AWAY as error:
                shell.log.warning("archiver waits", reason=str(error))
            except TROUBLE as error:
                shell.log.critical("archiver stopped", reason=str(error))
                return
            finally:
                await ledger.stop()
            await asyncio.sleep(RETRY_S)


async def work(shell: Any, depot: Depot, ledger: Ledger) -> None:
    """Rounds for ever: by the clock, and when an operator asks."""
    looks: dict[str, float] = {}
    while True:
        # What was asked for and not done before this process began is done now.
        run = ledger.wanted or Run()
        done = pb.ReportArchiveRunRequest(organisation_id=PLATFORM, run_id=run.id)
        for topic in TOPICS:
            for partition in range(shell.settings.partitions) if topic.judged else ():
                if run.means(topic.name, partition):
                    log = shell.log.bind(log=f"{topic.name}-{partition}")
                    one = Partition(shell, depot, ledger, topic.name, partition, log)
                    try:
                        await one.round(run, looks)
                    except TROUBLE as error:
                        # This partition stays as it is; nothing was forgotten or deleted.
                        log.critical("not archived", reason=str(error))
                        done.failed.append(f"{topic.name}-{partition}")
                    done.archived += one.archived
                    done.rewritten += one.rewritten
        if run.id:
            await shell.tell_as_self(done)
            await ledger.catch_up()
        else:
            await ledger.listen(EVERY_S)


class Partition:
    """One partition's share of a round."""

    def __init__(
        self, shell: Any, depot: Depot, ledger: Ledger, topic: str, partition: int, log: Any
    ) -> None:
        self.shell, self.depot, self.ledger, self.log = shell, depot, ledger, log
        self.topic, self.partition = topic, partition
        self.place = (topic, partition)
        self.cache: Path = cache_of(shell.settings)
        self.archived = self.rewritten = 0
        self._owners: dict[int, tuple[str, str]] = {}

    async def round(self, run: Run, looks: dict[str, float]) -> None:
        """Archive, have Kafka forget, compress and delete what is due."""
        sealed = await asyncio.to_thread(self._tree)
        if sealed is None or not sealed.tree.size:
            return
        await self.ledger.catch_up()
        chain = await asyncio.to_thread(self._chain)
        chain = await self._archive(run, sealed, chain)
        await self._shorten(run, sealed, chain)
        for manifest in chain:
            if run.id or looks.get(manifest.object, 0.0) <= time.monotonic():
                looks[manifest.object] = time.monotonic() + LOOK_S
                await self._look_through(sealed, manifest)

    def _tree(self) -> Sealed | None:
        verifier = Verifier.parse((self.shell.settings.credentials / "notary.pub").read_text())
        trees = self.shell.settings.home / "trees"
        return archiver.signed_tree(trees, *self.place, verifier)

    def _chain(self) -> list[Manifest]:
        """The manifests that the log knows; raises DamagedArchive where one is missing."""
        known = self.ledger.state.ranges.get(self.place, {})
        stored = {
            (one.first_offset, one.generation): one for one in manifests(self.depot, *self.place)
        }
        chain = []
        for first in sorted(known):
            manifest = stored.pop((first, known[first].generation), None)
            if manifest is None:
                raise DamagedArchive(
                    f"the manifest of {self.topic}/{self.partition} at offset {first}, generation "
                    f"{known[first].generation}, is not in {self.depot.url}"
                )
            chain.append(manifest)
        for (first, generation), left in sorted(stored.items()):
            if first in known and generation < known[first].generation:
                archiver.discard(self.depot, left)
        return newest(chain)

    async def _archive(self, run: Run, sealed: Sealed, chain: list[Manifest]) -> list[Manifest]:
        while True:
            last = chain[-1] if chain else None
            await self._load_owners(last.next_offset if last else 0)
            # By whole days, so that a range is a day's at least.
            today_us = now_us() // DAY_US * DAY_US

            def is_due(record: Judged, today_us: int = today_us) -> bool:
                return run.young_too or self._due(record).may_archive(today_us)

            manifest = await archiver.pack(
                self.shell.settings, sealed, self.depot, self.cache, last, is_due, self._columns
            )
            if manifest is None:
                return chain
            await self._report(manifest)
            self.archived += 1
            self.log.info("archived", offset=manifest.next_offset, rows=manifest.rows)
            chain = [*chain, manifest]

    async def _shorten(self, run: Run, sealed: Sealed, chain: list[Manifest]) -> None:
        begins = self.ledger.state.begins.get(self.place, 0)
        end = begins
        for manifest in chain:
            if manifest.next_offset <= begins:
                continue
            records = await asyncio.to_thread(self._records, manifest)
            dues = list(self._dues(records))
            if any(one.hold_id for one in dues):
                break
            if not run.young_too and not all(one.may_leave(now_us()) for one in dues):
                break
            await asyncio.to_thread(archiver.check, self.depot, self.cache, manifest, sealed)
            end = manifest.next_offset
        if end > begins:
            request = pb.ShortenLogRequest(
                organisation_id=PLATFORM,
                topic=self.topic,
                partition=self.partition,
                next_offset=end,
            )
            await self.shell.tell_as_self(request)
            self.log.info("log shortened", offset=end)
        if end:
            await shorten(self.shell.settings, self.topic, self.partition, end)

    async def _look_through(self, sealed: Sealed, manifest: Manifest) -> None:
        """Recompress an archived range, and delete what is over."""
        records = await asyncio.to_thread(self._records, manifest)
        dues = list(self._dues(records))
        now = now_us()
        if manifest.next_offset <= self.ledger.state.begins.get(self.place, 0):
            over = await self._over(records, dues, now)
            for (owner_id, policy), offsets in sorted(over.items()):
                request = pb.DeleteArchivedRequest(
                    organisation_id=PLATFORM,
                    topic=self.topic,
                    partition=self.partition,
                    first_offset=manifest.first_offset,
                    offsets=offsets,
                    owner_id=owner_id,
                    policy=policy,
                )
                await self.shell.tell_as_self(request)
                self.log.info("deleted by policy", records=len(offsets), policy=policy)
        smaller = manifest.level < LEVEL_LATER and all(one.may_recompress(now) for one in dues)
        await self.ledger.catch_up()
        delete = self._left(manifest, records)
        if not delete and not smaller:
            return
        level = LEVEL_LATER if smaller else manifest.level
        fresh = await archiver.rewrite(self.depot, self.cache, manifest, sealed, level, delete)
        await self._report(fresh)
        self.rewritten += 1
        await asyncio.to_thread(archiver.discard, self.depot, manifest)
        self.log.info("rewritten", offset=fresh.first_offset, size_bytes=fresh.size_bytes)

    async def _over(
        self, records: list[Archived], dues: list[Due], now: int
    ) -> dict[tuple[str, str], list[int]]:
        """The offsets whose content is to go, by whose they are and the policy that says so."""
        found: dict[tuple[str, str], list[int]] = {}
        batches: dict[int, str] = {}
        for record, one in zip(records, dues, strict=True):
            if record.deleted or not one.may_delete(now):
                continue
            event = content_of(self._recorded(record))
            found.setdefault((event.organisation_id, one.policy), []).append(record.offset)
            if isinstance(event, data_pb2.BatchAccepted):
                batches[record.offset] = event.batch_id
        if not batches:
            return found
        ended = await self._ended(list(batches.values()))
        waiting = {offset for offset, batch_id in batches.items() if batch_id not in ended}
        left = {key: [one for one in found[key] if one not in waiting] for key in found}
        return {key: offsets for key, offsets in left.items() if offsets}

    async def _ended(self, batch_ids: list[str]) -> set[str]:
        """Which of these batches have no event left to append, as far as the index knows."""
        async with self.shell.db() as db:
            rows = await db.execute(
                "SELECT DISTINCT stream FROM audit_events WHERE topic = %s AND partition = %s "
                "AND stream = ANY(%s) AND type = 'batch.processed' "
                "AND payload ->> 'finished' = 'true'",
                (*self.place, batch_ids),
            )
            return {row["stream"] for row in await rows.fetchall()}

    def _left(self, manifest: Manifest, records: list[Archived]) -> dict[int, bytes]:
        """What stays of the records whose deletion was decided and that no hold keeps now."""
        place = (*self.place, manifest.first_offset)
        wanted = self.ledger.state.deleted.get(place, frozenset())
        left = {}
        for record, one in zip(records, self._dues(records), strict=True):
            if record.offset in wanted and not record.deleted and not one.hold_id:
                left[record.offset] = reduced(content_of(self._recorded(record)))
        return left

    async def _report(self, manifest: Manifest) -> None:
        base = manifest
        told = pb.ArchivedRange(
            topic=base.topic,
            partition=base.partition,
            first_offset=base.first_offset,
            next_offset=base.next_offset,
            rows=base.rows,
            deleted=base.deleted,
            generation=base.generation,
            level=base.level,
            sha256=bytes.fromhex(base.sha256),
            size_bytes=base.size_bytes,
            base_before=base.base_before,
            base_after=base.base_after,
            first_index=base.first_index,
            tree_size=base.tree_size,
            root=bytes.fromhex(base.root),
            last_ms=base.last_ms,
        )
        await self.shell.tell_as_self(
            pb.ReportArchivedRequest(organisation_id=PLATFORM, range=told)
        )

    def _records(self, manifest: Manifest) -> list[Archived]:
        path = fetch(self.depot, manifest, self.cache)
        records = decoded(path)
        for record, columns in zip(records, columns_in(path), strict=True):
            self._owners[record.offset] = (columns.organisation_id, columns.project_id)
        return records

    def _dues(self, records: Iterable[Archived]) -> Iterable[Due]:
        for record in records:
            if record.kind == Kind.EVENT:
                recorded = self._recorded(record)
                yield self._due_of(recorded, record.timestamp_ms)
            else:
                yield due_of_nothing(record.timestamp_ms)

    def _recorded(self, record: Archived) -> Recorded:
        return archiver.recorded(record, *self.place)

    def _due(self, record: Judged) -> Due:
        if record.verdict.kind != Kind.EVENT:
            return due_of_nothing(record.timestamp_ms)
        recorded = archiver.recorded(archiver.archived(record), *self.place)
        return self._due_of(recorded, record.timestamp_ms)

    def _due_of(self, recorded: Recorded, appended_ms: int) -> Due:
        organisation = self._owners.get(recorded.position.offset, owner_of(recorded))[0]
        return due_of(recorded, organisation, appended_ms, self.ledger.state)

    def _columns(self, record: Archived) -> Columns:
        """What an archived record can be found by: a user's event under his own names."""
        columns = columns_of(record, self._owners.get(record.offset, ("", "")))
        if record.kind != Kind.EVENT:
            return columns
        found = self._recorded(record)
        if not isinstance(found.event, data_pb2.EventAppended):
            return columns
        told = as_told(found, found.event)
        return columns._replace(
            type=told.type,
            actor=told.actor,
            correlation_id=told.correlation_id,
            causation_id=told.causation_id,
        )

    async def _load_owners(self, offset: int) -> None:
        """Whom the next records concern, as the audit index found out."""
        async with self.shell.db() as db:
            rows = await (
                await db.execute(
                    "SELECT record_offset, organisation_id, project_id FROM audit_events "
                    "WHERE topic = %s AND partition = %s AND record_offset >= %s "
                    "ORDER BY record_offset LIMIT %s",
                    (*self.place, offset, archiver.ROWS_MAX),
                )
            ).fetchall()
        self._owners = {
            row["record_offset"]: (row["organisation_id"], row["project_id"]) for row in rows
        }


def content_of(recorded: Recorded) -> data_pb2.EventAppended | data_pb2.BatchAccepted:
    """The event of a record that may be deleted."""
    assert isinstance(recorded.event, data_pb2.EventAppended | data_pb2.BatchAccepted)
    return recorded.event


def due_of_nothing(appended_ms: int) -> Due:
    """Markers and void records go with the events around them, and are never deleted."""
    archive_us = appended_ms * 1000 + DEFAULTS.archive_after_days * DAY_US
    return Due(archive_us, archive_us + DEFAULTS.recompress_after_days * DAY_US, 0, "")


def locked(handle: int) -> bool:
    """Whether the lock could be taken; it falls with the process."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
