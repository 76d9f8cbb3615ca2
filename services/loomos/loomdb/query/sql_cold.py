"""Auditors' SQL over the archive: DuckDB in memory, over the columns of archived records.

1. The organisation's records are loaded first, `records_max` at most; then all access to files and
   network is shut off for good, and only then the question runs: there is nothing else to reach.
2. Only a statement that reads is run: DuckDB itself says of what kind it is.
"""

import json
import threading
from typing import Any

from loom.decider import Code, Rejected
from loom.log.archive import fetch, manifests, newest
from loom.log.cold import cache_of
from loom.log.depot import depot_of
from loom.log.topics import DECIDING

__all__ = ["run"]

RECORDS_MAX = 1_000_000
TIME_S = 10.0
MEMORY = "512MB"
COLUMNS = (
    "record_offset, timestamp_ms, kind, incarnation, deleted, event_id, type, at_us, stream, "
    "version, actor, command_id, correlation_id, causation_id, organisation_id, project_id"
)


def run(
    settings: Any, organisation: str, text: str, limit: int, bytes_max: int
) -> tuple[list[str], list[str], bool]:
    """Columns and rows of a SELECT over `records`; of all organisations where none is named."""
    # Slow to import: few processes read the archive.
    import duckdb

    from loom.log.parquet import connected

    with connected() as table:
        table.execute(f"SET memory_limit = '{MEMORY}'")
        table.execute("SET temp_directory = ''")
        whole = loaded(table, settings, organisation)
        table.execute("SET enable_external_access = false")
        table.execute("SET lock_configuration = true")
        timer = threading.Timer(TIME_S, table.interrupt)
        timer.start()
        try:
            parsed = table.extract_statements(text)
            if len(parsed) != 1 or parsed[0].type != duckdb.StatementType.SELECT:
                raise Rejected(Code.INVALID_ARGUMENT, "sql is not one SELECT", "sql")
            found = table.execute(parsed[0])
            columns = [str(one[0]) for one in found.description or ()]
            rows, used = [], 0
            while len(rows) <= limit and used <= bytes_max:
                row = found.fetchone()
                if row is None:
                    return columns, rows, whole
                rows.append(json.dumps(row, default=str, ensure_ascii=False))
                used += len(rows[-1])
        except duckdb.InterruptException as late:
            told = f"the query took more than {TIME_S:g} s: narrow it"
            raise Rejected(Code.FAILED_PRECONDITION, told, "sql") from late
        except duckdb.Error as error:
            said = str(error).splitlines()[0]
            raise Rejected(Code.INVALID_ARGUMENT, f"DuckDB says: {said}", "sql") from error
        finally:
            timer.cancel()
        return columns, rows[:limit], False


def loaded(table: Any, settings: Any, organisation: str) -> bool:
    """Load the archive's records into `records`; False where not all of them fit."""
    depot = depot_of(settings)
    if depot is None:
        told = "this platform has no archive: LOOMOS_ARCHIVE says where one is"
        raise Rejected(Code.FAILED_PRECONDITION, told, "cold")
    left, first = RECORDS_MAX, True
    for name in DECIDING:
        for partition in range(settings.partitions):
            topic = f"loomos.{name}"
            for manifest in newest(manifests(depot, topic, partition)):
                path = fetch(depot, manifest, cache_of(settings))
                part = (
                    f"SELECT $1 AS topic, $2::int AS partition, {COLUMNS} FROM read_parquet($3) "  # noqa: S608 - constants
                    f"WHERE $4 IN ('', organisation_id) AND event_id <> '' LIMIT {left:d}"
                )
                into = "CREATE TABLE records AS" if first else "INSERT INTO records"
                table.execute(f"{into} {part}", [topic, partition, str(path), organisation])
                first = False
                (count,) = table.execute("SELECT count(*) FROM records").fetchone()
                left = RECORDS_MAX - count
                if left <= 0:
                    return False
    if first:
        raise Rejected(Code.FAILED_PRECONDITION, "nothing is archived yet", "cold")
    return True
