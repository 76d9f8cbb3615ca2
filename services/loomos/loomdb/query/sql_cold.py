"""Auditors' SQL over archive and index as one table: DuckDB in memory, over the columns of records.

1. A partition's archived records come from the archive and those behind them from the index, which
   is asked after the archive's end was read: each record is there once.
2. The organisation's records are loaded first, RECORDS_MAX at most; then all access to files and
   network is shut off for good, and only then the question runs: there is nothing else to reach.
3. Only a statement that reads is run: DuckDB itself says of what kind it is.
"""

import asyncio
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from psycopg import sql

from loom.decider import Code, Rejected
from loom.log.archive import Manifest, fetch, manifests, newest
from loom.log.cold import cache_of
from loom.log.depot import depot_of
from loom.log.topics import DECIDING

__all__ = ["answered"]

RECORDS_MAX = 1_000_000
TIME_S = 10.0
MEMORY = "512MB"
BOTH = (
    "record_offset, incarnation, event_id, type, at_us, stream, version, actor, command_id, "
    "correlation_id, causation_id, organisation_id, project_id"
)
TABLE = """
CREATE TABLE records (
  topic VARCHAR, partition INTEGER, archived BOOLEAN, deleted BOOLEAN, timestamp_ms BIGINT,
  record_offset BIGINT, incarnation UINTEGER, event_id VARCHAR, type VARCHAR, at_us BIGINT,
  stream VARCHAR, version UBIGINT, actor VARCHAR, command_id VARCHAR, correlation_id VARCHAR,
  causation_id VARCHAR, organisation_id VARCHAR, project_id VARCHAR)"""
COLD = f"""
INSERT INTO records SELECT $1, $2, true, deleted, timestamp_ms, {BOTH} FROM read_parquet($3)
WHERE $4 IN ('', organisation_id) AND event_id <> '' LIMIT """  # noqa: S608 - constants
HOT = """
COPY (SELECT e.topic, e.partition, false, false, NULL, {columns} FROM audit_events AS e
  LEFT JOIN unnest({topics}::text[], {partitions}::int[], {ends}::bigint[])
    AS a (topic, partition, next_offset) USING (topic, partition)
  WHERE {whose} IN ('', e.organisation_id) AND e.record_offset >= coalesce(a.next_offset, 0)
  LIMIT {most}) TO STDOUT (FORMAT csv, FORCE_QUOTE *)"""
Chains = Mapping[tuple[str, int], list[Manifest]]


async def answered(
    organisation: str, text: str, limit: int, bytes_max: int, shell: Any
) -> tuple[list[str], list[str], bool]:
    """Columns and rows of a SELECT over `records`; of all organisations where none is named."""
    chains = await asyncio.to_thread(chains_of, shell.settings)
    with TemporaryDirectory(prefix="loomos-hot-") as folder:
        hot = Path(folder) / "hot.csv"
        await copy_hot(organisation, chains, hot, shell)
        return await asyncio.to_thread(
            run, shell.settings, organisation, chains, hot, text, limit, bytes_max
        )


def chains_of(settings: Any) -> Chains:
    """What is archived of each partition."""
    depot = depot_of(settings)
    if depot is None:
        told = "this platform has no archive: LOOMOS_ARCHIVE says where one is"
        raise Rejected(Code.FAILED_PRECONDITION, told, "cold")
    places = [(f"loomos.{name}", at) for name in DECIDING for at in range(settings.partitions)]
    return {place: newest(manifests(depot, *place)) for place in places}


async def copy_hot(organisation: str, chains: Chains, to: Path, shell: Any) -> None:
    """Write what the index has behind the archive's end to a file."""
    ends = [(*place, chain[-1].next_offset) for place, chain in chains.items() if chain]
    topics, partitions, offsets = [list(one) for one in zip(*ends, strict=True)] or [[], [], []]
    question = sql.SQL(HOT).format(
        columns=sql.SQL(", ").join(sql.Identifier("e", name) for name in BOTH.split(", ")),
        topics=sql.Literal(topics),
        partitions=sql.Literal(partitions),
        ends=sql.Literal(offsets),
        whose=sql.Literal(organisation),
        most=sql.Literal(RECORDS_MAX),
    )
    async with shell.db() as db, db.cursor() as cursor:
        with to.open("wb") as file:
            async with cursor.copy(question) as copy:
                async for part in copy:
                    file.write(part)


def run(
    settings: Any,
    organisation: str,
    chains: Chains,
    hot: Path,
    text: str,
    limit: int,
    bytes_max: int,
) -> tuple[list[str], list[str], bool]:
    """Load the records and ask the question."""
    # Slow to import: few processes read the archive.
    import duckdb

    from loom.log.parquet import connected

    with connected() as table:
        table.execute(f"SET memory_limit = '{MEMORY}'")
        table.execute("SET temp_directory = ''")
        whole = loaded(table, settings, organisation, chains, hot)
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


def loaded(table: Any, settings: Any, organisation: str, chains: Chains, hot: Path) -> bool:
    """Load the records into `records`, archived ones first; False where not all of them fit."""
    depot = depot_of(settings)
    assert depot is not None
    table.execute(TABLE)
    left = RECORDS_MAX
    for (topic, partition), chain in chains.items():
        for manifest in chain:
            path = fetch(depot, manifest, cache_of(settings))
            table.execute(f"{COLD}{left:d}", [topic, partition, str(path), organisation])
            left = RECORDS_MAX - count(table)
    behind = "INSERT INTO records SELECT * FROM read_csv($1, header = false, all_varchar = true)"
    if hot.stat().st_size:
        table.execute(f"{behind} LIMIT {left:d}", [str(hot)])
    return count(table) < RECORDS_MAX


def count(table: Any) -> int:
    """How many records are loaded."""
    (found,) = table.execute("SELECT count(*) FROM records").fetchone()
    return found
