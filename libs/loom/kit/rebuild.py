"""Builds a service's read models anew beside the live ones, compares, and swaps.

1. The new tables are written by replaying the log from its beginning; the live ones go on.
2. Both are compared at one cut: the live positions are locked (a projector waits, it loses nothing)
   while the replay catches up to them and the digests are taken.
3. All of it is one transaction, the swap too: whatever ends it early leaves the live tables and
   nothing beside them. Where Postgres keeps minimal WAL, rows of tables made in the same
   transaction are not in it. The old tables stay as `<schema>__previous` for going back.
"""

import asyncio
from collections.abc import Callable
from typing import Any, LiteralString, NamedTuple, cast

from psycopg import sql

from loom.decider import Statement
from loom.kit.bulk import run_all
from loom.kit.contract import Service
from loom.log.judge import START, Base, Kind
from loom.log.reader import Reader
from loom.log.topics import Bus
from loom.store import OWN_TABLES, Connection, Store

__all__ = ["Compared", "Mismatch", "rebuild", "table_digests"]

PROJECTION = "read-model"
SLICE_RECORDS = 250
"""Between two slices the loop sees what the database answered."""
STATEMENTS_MAX = 16_000
"""So many may wait for the database while it is at work."""
UNTIMED = "SET LOCAL statement_timeout = 0"
"""What takes as long as the tables are large has no time of its own."""
DIGEST = """
SELECT coalesce(sum(rows), 0)::bigint AS rows,
  encode(sha256(coalesce(string_agg(bucket || digest, ''::bytea ORDER BY bucket), '')), 'hex')
    AS digest
FROM (
  SELECT substring(digest FOR 2) AS bucket, count(*) AS rows,
    sha256(string_agg(digest, ''::bytea ORDER BY digest)) AS digest
  FROM (SELECT sha256(convert_to(t::text, 'UTF8')) AS digest FROM {} AS t OFFSET 0) AS each_row
  GROUP BY 1) AS each_bucket
"""


class Mismatch(Exception):
    """A read model is not what its log says."""


class Compared(NamedTuple):
    """One table's digest before and after."""

    table: str
    rows: int
    live: str
    rebuilt: str


class Followed(NamedTuple):
    """One partition that the read models stand on."""

    topic: str
    partition: int
    base: Base


async def rebuild(
    service: Service,
    bus: Bus,
    store: Store,
    swap: bool = False,
    replace: bool = False,
    progress: Callable[[int], None] = lambda events: None,
) -> list[Compared]:
    """Replay into new tables, compare at one cut, and swap where asked for and nothing differs.

    Raises Mismatch naming the tables that differ when asked to swap; the live ones then stay. With
    `replace` the new tables go in place all the same: after damage, or when `project` was changed.
    Two connections of the store are used at once.
    """
    new = f"{store.schema}__rebuild"
    async with store.connection() as connection:
        await connection.execute(UNTIMED)
        await make(connection, new, service.schema)
        places = await positions(store)
        for place in places:
            await copy_range(service, bus, connection, place, START, progress)
        await connection.execute(set_path(store.schema))
        await connection.execute("SELECT * FROM positions FOR UPDATE")
        locked = await positions_in(connection)
        comparing = asyncio.create_task(digests(store))
        try:
            # Little is left to replay: what the live projectors did since the positions were read.
            await connection.execute(set_path(new))
            for place in locked:
                done = next((p.base for p in places if p[:2] == place[:2]), START)
                await copy_range(service, bus, connection, place, done, progress)
            rebuilt = await table_digests(connection, new)
            live = await comparing
        finally:
            comparing.cancel()
            await asyncio.gather(comparing, return_exceptions=True)
        compared = [
            Compared(table, live[table][0], live[table][1], rebuilt.get(table, (0, ""))[1])
            for table in sorted(live)
        ]
        if swap or replace:
            different = [one.table for one in compared if one.live != one.rebuilt]
            if different and not replace:
                raise Mismatch(f"{service.name}: {', '.join(different)} differ from the log")
            await swap_schemas(connection, store.schema, new)
        else:
            await connection.rollback()
    return compared


async def digests(store: Store) -> dict[str, tuple[int, str]]:
    """Those of the live tables, on a connection of their own: another processor can do it."""
    async with store.connection() as connection:
        await connection.execute(UNTIMED)
        return await table_digests(connection, store.schema)


async def make(connection: Connection, schema: str, tables: str) -> None:
    """An empty schema with the service's tables."""
    name = sql.Identifier(schema)
    await connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(name))
    await connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
    await connection.execute(set_path(schema))
    await connection.execute(cast(LiteralString, tables))


async def positions(store: Store) -> list[Followed]:
    """Where the live read models stand."""
    async with store.connection() as connection:
        return await positions_in(connection)


async def positions_in(connection: Connection) -> list[Followed]:
    """Where the live read models stand, in the caller's transaction."""
    rows = await (
        await connection.execute(
            "SELECT topic, partition, base FROM positions WHERE projection = %s "
            "ORDER BY topic, partition",
            (PROJECTION,),
        )
    ).fetchall()
    return [Followed(row["topic"], row["partition"], Base.parse(row["base"])) for row in rows]


async def copy_range(
    service: Service,
    bus: Bus,
    connection: Connection,
    target: Followed,
    start: Base,
    progress: Callable[[int], None],
) -> None:
    """Project the records of one partition from a base up to the target's base."""
    if start.offset >= target.base.offset:
        return
    reader = Reader(bus, target.topic, target.partition, start)
    await reader.start()
    running: asyncio.Task[None] | None = None
    statements: list[Statement] = []
    try:
        while reader.next_offset < target.base.offset:
            records = await reader.batch(records_max=SLICE_RECORDS)
            for record in records:
                if record.verdict.kind == Kind.EVENT and record.offset < target.base.offset:
                    statements += service.project(reader.recorded(record))
            progress(len(records))
            if running is not None and not running.done() and len(statements) < STATEMENTS_MAX:
                # The database has its turn: what the log has next is projected meanwhile.
                await asyncio.sleep(0)
                continue
            if running is not None:
                await running
            running = asyncio.create_task(run_all(connection, statements))
            statements = []
        if running is not None:
            await running
            running = None
        await run_all(connection, statements)
    finally:
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await reader.stop()


async def table_digests(connection: Connection, schema: str) -> dict[str, tuple[int, str]]:
    """Rows and a digest of their content, for each read-model table of a schema.

    A row counts by its own SHA-256, so the order is that of digests and no value grows with the
    table but by 34 bytes for each of 65,536 buckets. `OFFSET 0` has it computed once a row:
    Postgres would write it into each place that names it.
    """
    names = await (
        await connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY tablename", (schema,)
        )
    ).fetchall()
    found: dict[str, tuple[int, str]] = {}
    for name in (row["tablename"] for row in names):
        if name in OWN_TABLES:
            continue
        query = sql.SQL(DIGEST).format(sql.Identifier(schema, name))
        row: Any = await (await connection.execute(query)).fetchone()
        found[name] = (row["rows"], row["digest"])
    return found


async def swap_schemas(connection: Connection, live: str, new: str) -> None:
    """Put the new tables in the live ones' place; positions and dead letters stay."""
    previous = f"{live}__previous"
    rename = sql.SQL("ALTER SCHEMA {} RENAME TO {}")
    identifier = sql.Identifier
    await connection.execute(
        sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(identifier(previous))
    )
    await connection.execute(rename.format(identifier(live), identifier(previous)))
    await connection.execute(rename.format(identifier(new), identifier(live)))
    for table in OWN_TABLES:
        await connection.execute(
            sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
                identifier(previous, table), identifier(live)
            )
        )


def set_path(schema: str) -> sql.Composed:
    """Make a schema the one that unqualified names mean, until the transaction ends."""
    return sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(schema))
