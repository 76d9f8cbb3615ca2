"""Archived records as a Parquet object: the exact stored bytes, and columns to query by.

1. The bytes of an object depend on the records, their columns and the level alone.
2. Of a record deleted by policy the stamp, the attributes and the digest stay, so that judge and
   tree go on over it, and as much of its value as the state is folded from; its content is gone.
3. An object is read as it was written or not at all: other columns, other types, a null where none
   was written, more records than a range has or more bytes than there is room for are damage.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from loom.catalogue import Undecodable
from loom.log import envelope

from .judge import Headers, Kind

if TYPE_CHECKING:
    # Slow to import: few processes read or write the archive.
    from duckdb import DuckDBPyConnection

__all__ = [
    "LEVEL",
    "LEVEL_LATER",
    "ROWS_MAX",
    "Archived",
    "Columns",
    "DamagedArchive",
    "columns_in",
    "columns_of",
    "connected",
    "decoded",
    "encoded",
    "erased",
    "selected",
]

ROWS_MAX = 50_000
"""Records of one range."""
MEMORY_MAX = "1GB"
"""What an object may unfold to; one is written from 64 MiB and a command."""
LEVEL = 3
"""zstd's level at first: as fast as the log is read."""
LEVEL_LATER = 15
"""zstd's level for what is read seldom."""

TABLE = """
CREATE TABLE records (
  record_offset BIGINT, timestamp_ms BIGINT, key BLOB, value BLOB,
  headers STRUCT(name VARCHAR, value BLOB)[],
  kind UTINYINT, incarnation UINTEGER, epoch UBIGINT, digest BLOB, deleted BOOLEAN,
  event_id VARCHAR, type VARCHAR, at_us BIGINT, stream VARCHAR, version UBIGINT, actor VARCHAR,
  command_id VARCHAR, correlation_id VARCHAR, causation_id VARCHAR,
  organisation_id VARCHAR, project_id VARCHAR)"""
TYPES = (
    *("BIGINT", "BIGINT", "BLOB", "BLOB", "STRUCT(name VARCHAR, value BLOB)[]"),
    *("UTINYINT", "UINTEGER", "UBIGINT", "BLOB", "BOOLEAN"),
    *("VARCHAR", "VARCHAR", "BIGINT", "VARCHAR", "UBIGINT", "VARCHAR"),
    *("VARCHAR",) * 5,
)
INSERT = "INSERT INTO records SELECT " + ", ".join(
    f"unnest(${place}::{kind}[])" for place, kind in enumerate(TYPES, start=1)
)


class DamagedArchive(Exception):
    """An archived object or its manifest is not what was written; names it."""


class Archived(NamedTuple):
    """A record as the archive keeps it."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    kind: int
    incarnation: int
    epoch: int
    digest: bytes
    deleted: bool = False
    """True where its content is gone; the digest is the original's."""

    @property
    def timestamp(self) -> int:
        """The broker's time, by the name that Kafka's client gives it."""
        return self.timestamp_ms


class Columns(NamedTuple):
    """What an archived record can be found by; empty for markers and void records."""

    event_id: str = ""
    type: str = ""
    at_us: int = 0
    stream: str = ""
    version: int = 0
    actor: str = ""
    command_id: str = ""
    correlation_id: str = ""
    causation_id: str = ""
    organisation_id: str = ""
    project_id: str = ""


TABLE_NAMES = ("record_offset", *Archived._fields[1:], *Columns._fields)
"""The columns of an object, in order."""
FORMS = {
    name: kind.replace("name VARCHAR, value", '"name" VARCHAR, "value"')
    for name, kind in zip(TABLE_NAMES, TYPES, strict=True)
}


def columns_of(record: Archived, owner: tuple[str, str]) -> Columns:
    """What a valid event can be found by; `owner`: organisation and project, "" where none."""
    if record.kind != Kind.EVENT:
        return Columns()
    try:
        said = envelope.attributes_in(record.headers)
    except Undecodable:
        return Columns()
    return Columns(
        said.id,
        said.type,
        said.time_us,
        said.subject,
        said.sequence,
        said.authid,
        said.commandid,
        said.correlationid,
        said.causationid,
        *owner,
    )


def encoded(records: Sequence[Archived], columns: Sequence[Columns], level: int) -> bytes:
    """The Parquet object of these records, each with its columns."""
    rows = [
        (
            *record[:4],
            [{"name": name, "value": data} for name, data in record.headers],
            *record[5:],
            *found,
        )
        for record, found in zip(records, columns, strict=True)
    ]
    fields = [list(field) for field in zip(*rows, strict=True)]
    with tempfile.TemporaryDirectory(prefix="loomos-archive-") as folder:
        path = Path(folder) / "object.parquet"
        quoted = str(path).replace("'", "''")
        with connected() as table:
            table.execute(TABLE)
            table.execute(INSERT, fields)
            table.execute(
                f"COPY (SELECT * FROM records ORDER BY record_offset) TO '{quoted}' "  # noqa: S608
                f"(FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {level:d})"
            )
        return path.read_bytes()


def decoded(path: Path, from_offset: int = 0, records_max: int = 0) -> list[Archived]:
    """The records of an object from an offset on, all unless bounded; raises DamagedArchive."""
    names = TABLE_NAMES[:10]
    query = (
        f"SELECT {', '.join(names)} FROM read_parquet($1) "  # noqa: S608 - constants
        f"WHERE record_offset >= $2 ORDER BY record_offset LIMIT {records_max or ROWS_MAX + 1:d}"
    )
    rows = read(path, names, query, [str(path), from_offset])
    if len(rows) > max(records_max, ROWS_MAX):
        raise DamagedArchive(f"{path.name} holds more than the {ROWS_MAX} records of a range")
    found = []
    for row in rows:
        if None in (*row[:2], *row[4:]) or any(
            one is None or one["name"] is None for one in row[4]
        ):
            raise DamagedArchive(f"{path.name}: the record at offset {row[0]} is not whole")
        headers = [(one["name"], one["value"]) for one in row[4]]
        found.append(Archived._make((*row[:4], headers, *row[5:])))
    return found


def columns_in(path: Path) -> list[Columns]:
    """The columns of an object's records; raises DamagedArchive."""
    query = (
        f"SELECT {', '.join(Columns._fields)} FROM read_parquet($1) "  # noqa: S608 - constants
        f"ORDER BY record_offset LIMIT {ROWS_MAX:d}"
    )
    rows = read(path, TABLE_NAMES, query, [str(path)])
    if any(None in row for row in rows):
        raise DamagedArchive(f"{path.name}: the columns of a record are not whole")
    return [Columns._make(row) for row in rows]


def selected(
    path: Path, condition: str, parameters: Sequence[Any], rows_max: int
) -> list[tuple[int, Columns]]:
    """Offsets and columns of the records that fit, by time and offset; raises DamagedArchive.

    `condition` is SQL of the caller's own making; what comes from strangers is a parameter.
    """
    query = (
        f"SELECT record_offset, {', '.join(Columns._fields)} FROM read_parquet(?) "  # noqa: S608
        f"WHERE {condition} ORDER BY at_us, record_offset LIMIT {rows_max:d}"
    )
    rows = read(path, TABLE_NAMES, query, [str(path), *parameters])
    if any(None in row for row in rows):
        raise DamagedArchive(f"{path.name}: the columns of a record are not whole")
    return [(row[0], Columns._make(row[1:])) for row in rows]


def read(path: Path, names: Sequence[str], query: str, parameters: Sequence[Any]) -> list[Any]:
    """What a query finds in an object that has these columns as they were written."""
    import duckdb

    described = f"DESCRIBE SELECT {', '.join(names)} FROM read_parquet($1)"  # noqa: S608
    try:
        with connected() as table:
            table.execute(f"SET memory_limit = '{MEMORY_MAX}'")
            table.execute("SET temp_directory = ''")
            found = {row[0]: row[1] for row in table.execute(described, [str(path)]).fetchall()}
            wanted = {name: FORMS[name] for name in names}
            if found != wanted:
                raise DamagedArchive(f"{path.name} is no object of the archive: it has {found}")
            return table.execute(query, parameters).fetchall()
    except (duckdb.Error, UnicodeDecodeError) as error:
        said = str(error).partition("\n")[0]
        raise DamagedArchive(f"{path.name} is no object of the archive: {said}") from error


def connected() -> "DuckDBPyConnection":
    """A database in memory that reads local files and nothing else."""
    import duckdb

    return duckdb.connect(
        config={
            "threads": 1,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )


def erased(record: Archived, value: bytes) -> Archived:
    """The record with this in place of its content; its digest stays that of the original."""
    return record._replace(value=value, deleted=True)
