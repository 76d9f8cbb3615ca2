"""Events from the archive itself, for who trusts neither Kafka nor Postgres, or has neither.

1. The archive is read by DuckDB, object by object, after each object's SHA-256 was compared.
2. Of an event whose content a policy deleted the row has no payload, and says so.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from loom.log import archiver
from loom.log.archive import Manifest, fetch
from loom.log.depot import Depot
from loom.log.parquet import Columns, decoded, selected
from loom.v1 import data_pb2

__all__ = ["cold_rows", "place"]

CONDITIONS = {
    "type_prefix": "starts_with(type, ?)",
    "actor": "actor = ?",
    "stream": "stream = ?",
    "correlation_id": "correlation_id = ?",
}

Row = dict[str, Any]


def cold_rows(
    depot: Depot, cache: Path, chain: Iterable[Manifest], wanted: Mapping[str, str], limit: int
) -> list[Row]:
    """The first `limit` archived events that fit, in the index's order; "" asks for nothing.

    Raises DamagedArchive or DepotAway.
    """
    given = {CONDITIONS[name]: value for name, value in wanted.items() if value}
    condition = " AND ".join(["kind = 1", *given])
    found: list[Row] = []
    for manifest in chain:
        path = fetch(depot, manifest, cache)
        for offset, columns in selected(path, condition, list(given.values()), limit):
            found.append(row_of(path, manifest, offset, columns))
    return sorted(found, key=place)[:limit]


def row_of(path: Path, manifest: Manifest, offset: int, columns: Columns) -> Row:
    """An archived event much as the index has its row."""
    (record,) = decoded(path, offset, 1)
    recorded = archiver.recorded(record, manifest.topic, manifest.partition)
    payload = MessageToDict(recorded.event, preserving_proto_field_name=True)
    if isinstance(recorded.event, data_pb2.EventAppended):
        payload["payload"] = json.loads(recorded.event.payload)
    return {
        **columns._asdict(),
        "topic": manifest.topic,
        "partition": manifest.partition,
        "record_offset": offset,
        "incarnation": record.incarnation,
        "shard": recorded.shard,
        "deleted": record.deleted,
        "payload": {} if record.deleted else payload,
    }


def place(row: Row) -> tuple[int, str, int, int]:
    """A row's place in the index's order."""
    return row["at_us"], row["topic"], row["partition"], row["record_offset"]
