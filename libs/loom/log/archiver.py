"""Moves ranges of a partition into the archive, and writes archived ranges anew.

1. What is handed back was written, read back and compared with the signed tree; until then nobody
   relies on it. A crash in between leaves an object that the next try finds, byte for byte.
2. A range ends where the caller says that a record is not due, at the signed size, or when it is
   big enough; always behind a command.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from loom.decider import Position, Recorded
from loom.log import envelope

from .archive import Manifest, fetch, store
from .depot import Depot
from .judge import START, Base
from .leaf import unpack
from .notary import CHECKPOINT_FILE, newest_tree
from .note import Verifier
from .parquet import (
    LEVEL,
    ROWS_MAX,
    Archived,
    Columns,
    DamagedArchive,
    columns_in,
    decoded,
    encoded,
    erased,
)
from .reader import Judged, Reader
from .topics import Bus
from .verify import Sealed, open_tree
from .vouched import verify

__all__ = [
    "ROWS_MAX",
    "archived",
    "check",
    "discard",
    "pack",
    "recorded",
    "rewrite",
    "signed_tree",
]

BYTES_MAX = 64 * 1024 * 1024

Due = Callable[[Judged], bool]


def signed_tree(trees: Path, topic: str, partition: int, verifier: Verifier) -> Sealed | None:
    """The newest signed tree of a partition, or None; raises InvalidNote or DamagedTree."""
    folder = newest_tree(trees, topic, partition)
    if folder is None or not (folder / CHECKPOINT_FILE).is_file():
        return None
    return open_tree(folder, verifier)


async def pack(
    bus: Bus,
    sealed: Sealed,
    depot: Depot,
    cache: Path,
    last: Manifest | None,
    due: Due,
    columns: Callable[[Archived], Columns],
    rows_max: int = ROWS_MAX,
) -> Manifest | None:
    """Archive the range that follows `last`, as far as it is due; None where nothing is.

    Raises LogAway, LogDiverged, DepotAway, ObjectDiffers or DamagedArchive.
    """
    base = START if last is None else Base.parse(last.base_after)
    first_index = 0 if last is None else last.first_index + last.rows
    room = min(rows_max, sealed.tree.size - first_index)
    records, after = await due_range(bus, sealed, base, room, due)
    if not records:
        return None
    found = [columns(record) for record in records]
    blank = Manifest(
        topic=sealed.topic,
        partition=sealed.partition,
        generation=0,
        first_offset=base.offset,
        next_offset=after.offset,
        rows=len(records),
        deleted=0,
        first_ms=records[0].timestamp_ms,
        last_ms=records[-1].timestamp_ms,
        base_before=base.text(),
        base_after=after.text(),
        tree=sealed.incarnation,
        first_index=first_index,
        tree_size=0,
        root="",
        checkpoint="",
        level=LEVEL,
        sha256="",
        size_bytes=0,
    )
    return await asyncio.to_thread(written, depot, cache, blank, records, found, sealed)


async def due_range(
    bus: Bus, sealed: Sealed, base: Base, room: int, due: Due
) -> tuple[list[Archived], Base]:
    """The records from a base on that are signed and due, whole commands only."""
    found: list[Archived] = []
    whole, after, size = 0, base, 0
    if room <= 0:
        return [], base
    signed_to = unpack(sealed.tree.entry(sealed.tree.size - 1)).offset
    reader = Reader(bus, sealed.topic, sealed.partition, base)
    await reader.start()
    try:
        while reader.next_offset <= signed_to:
            for record in await reader.batch():
                full = len(found) >= room or size > BYTES_MAX
                if full or record.offset > signed_to or not due(record):
                    return found[:whole], after
                found.append(archived(record))
                size += len(record.value or b"") + sum(len(data) for _, data in record.headers)
                if record.verdict.closes:
                    whole, after = len(found), record.base
        return found[:whole], after
    finally:
        await reader.stop()


def archived(record: Judged) -> Archived:
    """A judged record as the archive keeps it."""
    verdict = record.verdict
    stamp = verdict.stamp if verdict.valid else None
    return Archived(
        record.offset,
        record.timestamp_ms,
        record.key,
        record.value,
        record.headers,
        int(verdict.kind),
        stamp.incarnation if stamp else 0,
        stamp.epoch if stamp else 0,
        verdict.digest,
    )


def recorded(record: Archived, topic: str, partition: int) -> Recorded:
    """An archived valid event, decoded; raises catalogue.Undecodable."""
    position = Position(topic, partition, record.offset, record.incarnation)
    found = envelope.read(record.headers, record.value, record.key, position, record.epoch)
    return found._replace(deleted=record.deleted)


async def rewrite(
    depot: Depot,
    cache: Path,
    manifest: Manifest,
    sealed: Sealed,
    level: int,
    delete: Mapping[int, bytes] | None = None,
) -> Manifest:
    """Write an archived range as its next generation: at another level, less what is deleted.

    `delete` says by offset what stays of a record's value. The old generation stands beside the new
    one until `discard`. Raises as `pack` does.
    """
    return await asyncio.to_thread(_rewrite, depot, cache, manifest, sealed, level, delete or {})


def _rewrite(
    depot: Depot,
    cache: Path,
    manifest: Manifest,
    sealed: Sealed,
    level: int,
    delete: Mapping[int, bytes],
) -> Manifest:
    path = fetch(depot, manifest, cache)
    records, columns = decoded(path), columns_in(path)
    for place, record in enumerate(records):
        if record.offset in delete:
            records[place] = erased(record, delete[record.offset])
    blank = replace(
        manifest,
        generation=manifest.generation + 1,
        level=level,
        deleted=sum(record.deleted for record in records),
    )
    return written(depot, cache, blank, records, columns, sealed)


def written(
    depot: Depot,
    cache: Path,
    blank: Manifest,
    records: Sequence[Archived],
    columns: Sequence[Columns],
    sealed: Sealed,
) -> Manifest:
    """Write an object and its manifest, and verify what was written.

    What an interrupted try left is taken where it is whole, and else written anew: nobody relies on
    it yet, for no event names it.
    """
    content = encoded(records, columns, blank.level)
    manifest = replace(
        blank,
        tree_size=sealed.tree.size,
        root=sealed.checkpoint.root.hex(),
        checkpoint=(sealed.tree.folder / CHECKPOINT_FILE).read_text(),
        sha256=sha256(content).hexdigest(),
        size_bytes=len(content),
    )
    try:
        left = Manifest.parse(depot.get(blank.name))
        if blank.generation == 0 or left.sha256 == manifest.sha256:
            check(depot, cache, left, sealed)
            return left
    except (FileNotFoundError, DamagedArchive):
        pass
    discard(depot, blank)
    store(depot, manifest, content)
    check(depot, cache, manifest, sealed)
    return manifest


def check(depot: Depot, cache: Path, manifest: Manifest, sealed: Sealed) -> None:
    """Read an object and its manifest back and compare them with the signed tree.

    Raises DamagedArchive, DepotAway or FileNotFoundError.
    """
    stored = Manifest.parse(depot.get(manifest.name))
    verify(stored, decoded(fetch(depot, stored, cache)), sealed)


def discard(depot: Depot, manifest: Manifest) -> None:
    """Remove a generation that a newer one has replaced: first what makes it count."""
    depot.remove(manifest.name)
    depot.remove(manifest.object)
