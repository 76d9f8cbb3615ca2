"""Events from the archive, and one page out of hot and cold.

1. The archive is read by DuckDB, object by object, after each object's SHA-256 was compared; only
   objects whose times may hold something are read.
2. `merged` keeps the index's order (time, topic, partition, offset) and gives each place once:
   where both know it, the index's row counts. So a cursor means the same on either side.
3. The caller's scope is a filter here as it is there: a foreign event is not found.
"""

import heapq
import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict

from loom.log import archiver
from loom.log.archive import Manifest, fetch
from loom.log.depot import Depot
from loom.log.parquet import Columns, decoded, selected

__all__ = ["Scope", "Wanted", "cold_rows", "merged"]

DAY_MS = 24 * 3600 * 1000

Row = dict[str, Any]


class Scope(NamedTuple):
    """Whose events may be seen."""

    all: bool
    organisations: Sequence[str] = ()
    projects: Sequence[str] = ()


class Wanted(NamedTuple):
    """What is asked for; empty fields do not filter."""

    type_prefix: str = ""
    from_us: int = 0
    to_us: int = 0
    actor: str = ""
    stream: str = ""
    correlation_id: str = ""
    event_id: str = ""
    organisation_id: str = ""
    after: tuple[int, str, int, int] | None = None
    """The last row of the page before: time, topic, partition, offset."""


def cold_rows(
    depot: Depot,
    cache: Path,
    chain: Iterable[Manifest],
    wanted: Wanted,
    scope: Scope,
    limit: int,
) -> list[Row]:
    """The first `limit` archived events that fit, in the index's order, as the index has rows.

    Blocks: call it in a thread. Raises DamagedArchive or DepotAway.
    """
    found: list[Row] = []
    for manifest in chain:
        if not overlaps(manifest, wanted):
            continue
        path = fetch(depot, manifest, cache)
        condition, parameters = condition_of(wanted, scope, manifest)
        for offset, columns in selected(path, condition, parameters, limit):
            found.append(row_of(path, manifest, offset, columns))
    return sorted(found, key=place)[:limit]


def overlaps(manifest: Manifest, wanted: Wanted) -> bool:
    """Whether a range may hold something of the time asked for, clocks being a day apart."""
    earliest, latest = manifest.first_ms - DAY_MS, manifest.last_ms + DAY_MS
    from_us = max(wanted.from_us, wanted.after[0] if wanted.after else 0)
    return from_us <= latest * 1000 and (not wanted.to_us or earliest * 1000 < wanted.to_us)


def condition_of(wanted: Wanted, scope: Scope, manifest: Manifest) -> tuple[str, list[Any]]:
    """The filter as SQL over an object's columns; made of constants in this file."""
    parts = ["kind = 1"]
    parameters: list[Any] = []
    for part, value in (
        ("starts_with(type, ?)", wanted.type_prefix),
        ("at_us >= ?", wanted.from_us),
        ("at_us < ?", wanted.to_us),
        ("actor = ?", wanted.actor),
        ("stream = ?", wanted.stream),
        ("correlation_id = ?", wanted.correlation_id),
        ("event_id = ?", wanted.event_id),
        ("organisation_id = ?", wanted.organisation_id),
    ):
        if value:
            parts.append(part)
            parameters.append(value)
    if wanted.after is not None:
        at_us, *before, offset = wanted.after
        here = [manifest.topic, manifest.partition]
        same_time = "true" if here > before else "record_offset > ?" if here == before else "false"
        parts.append(f"(at_us > ? OR (at_us = ? AND {same_time}))")
        parameters += [at_us, at_us, offset] if here == before else [at_us, at_us]
    if not scope.all:
        parts.append("(list_contains(?, organisation_id) OR list_contains(?, project_id))")
        parameters += [list(scope.organisations) or [""], list(scope.projects) or ["\0"]]
        parts.append("organisation_id <> ''")
    return " AND ".join(parts), parameters


def row_of(path: Path, manifest: Manifest, offset: int, columns: Columns) -> Row:
    """An archived event as the index has its row."""
    (record,) = decoded(path, offset, 1)
    recorded = archiver.recorded(record, manifest.topic, manifest.partition)
    payload = MessageToDict(recorded.event, preserving_proto_field_name=True)
    return {
        **columns._asdict(),
        "topic": manifest.topic,
        "partition": manifest.partition,
        "record_offset": offset,
        "incarnation": record.incarnation,
        "shard": recorded.shard,
        "payload": json.loads(json.dumps(payload, sort_keys=True)),
    }


def merged(hot: Iterable[Row], cold: Iterable[Row], limit: int) -> list[Row]:
    """One page out of both, each in the index's order already."""
    # A stable merge: of two rows at one place the index's comes first, and is the one that stays.
    both = heapq.merge(hot, cold, key=place)
    rows = [next(same) for _, same in groupby(both, key=place)]
    return rows[:limit]


def place(row: Row) -> tuple[int, str, int, int]:
    """A row's place in the index's order."""
    return row["at_us"], row["topic"], row["partition"], row["record_offset"]
