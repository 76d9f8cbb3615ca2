"""Read models as they were, each in a schema of its own beside the live one.

1. A schema is named by what it holds: the service's code and tables, and the cut. It is made in one
   transaction, so it stands whole or not at all, and never changes afterwards.
2. What is projected into it is the log up to the cut, by the same code as `rebuild`. The newest
   earlier schema of the same code is copied first, so only what lies between is replayed.
3. Whoever reads it holds a shared lock on its name; whoever drops it needs that lock alone.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from psycopg import sql

from loom.kit.contract import Service
from loom.kit.cut import Cut, Reach
from loom.kit.rebuild import Followed, copy_range, make, set_path
from loom.kit.snapshot import code_digest
from loom.log.clock import now_us
from loom.log.judge import START, Base
from loom.log.topics import Bus
from loom.store import Connection, Store

__all__ = ["asked_at_us", "build", "name_of", "opened", "sweep", "touch"]

AT = "loomos.as_of_us"
KEPT_MAX = 4
IDLE_US_MAX = 15 * 60 * 1_000_000
LOCK_AGAIN_S = 0.2


class Kept(NamedTuple):
    """A schema that stands."""

    name: str
    used_at_us: int
    code: str
    cut: Cut


def name_of(service: Service, schema: str, cut: Cut) -> str:
    """What the schema of a cut is called."""
    whole = hashlib.sha256(code_of(service).encode())
    for reach in cut.reaches:
        whole.update(f"\0{reach.topic}\0{reach.partition}\0{reach.base.text()}".encode())
    return f"{prefix(schema)}{whole.hexdigest()[:16]}"


def prefix(schema: str) -> str:
    """What the names of a service's past schemas begin with."""
    return f"{schema}__asof_"


def code_of(service: Service) -> str:
    """Digest of what makes rows of events: the tables and all the service's code."""
    text = f"{service.schema}\0{code_digest(service.name)}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@asynccontextmanager
async def opened(store: Store, *names: str, at_us: int = 0) -> AsyncIterator[Connection | None]:
    """A connection that reads in the first of these schemas and cannot write.

    None where one of them does not stand; those that stand stay until it ends.
    """
    async with store.connection() as connection:
        await connection.execute("SET TRANSACTION READ ONLY")
        for name in names:
            held = await lock(connection, name, shared=True)
            if not held or not await stands(connection, name):
                yield None
                return
        await connection.execute(set_path(names[0]))
        await connection.execute("SELECT set_config(%s, %s, true)", (AT, str(at_us)))
        yield connection


async def asked_at_us(connection: Connection) -> int:
    """The time as of which a query is answered: for those that speak of "this month"."""
    cursor = await connection.execute("SELECT current_setting(%s, true) AS at_us", (AT,))
    row: Any = await cursor.fetchone()
    return int(row["at_us"] or 0) or now_us()


async def stands(connection: Connection, name: str) -> bool:
    """Whether a schema is there."""
    cursor = await connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (name,))
    return await cursor.fetchone() is not None


async def build(
    service: Service, bus: Bus, store: Store, cut: Cut, progress: Callable[[int], None]
) -> str:
    """Make the schema of a cut unless it stands; its name."""
    name = name_of(service, store.schema, cut)
    async with store.connection() as connection:
        await alone(connection, name)
        if await stands(connection, name):
            return name
        earlier = await nearest(connection, store.schema, code_of(service), cut)
        await connection.execute("SET LOCAL client_min_messages = warning")
        await make(connection, name, service.schema)
        starts: dict[tuple[str, int], Reach] = {}
        if earlier is not None:
            await copy_tables(connection, earlier.name, name)
            starts = {(one.topic, one.partition): one for one in earlier.cut.reaches}
            progress(earlier.cut.events)
        for reach in cut.reaches:
            start = starts.get((reach.topic, reach.partition))
            await connection.execute(set_path(name))
            await copy_range(
                service,
                bus,
                connection,
                Followed(reach.topic, reach.partition, reach.base),
                start.base if start else START,
                progress,
            )
        # How far readers are is no read model: a query that joins it finds what the log said.
        theirs, ours = sql.Identifier(store.schema, "positions"), sql.Identifier(name, "positions")
        await connection.execute(sql.SQL("CREATE TABLE {} (LIKE {})").format(ours, theirs))
        await note(connection, Kept(name, now_us(), code_of(service), cut))
    return name


async def alone(connection: Connection, name: str) -> None:
    """Wait until nobody else reads or makes this schema, without holding a statement open."""
    while not await lock(connection, name):  # noqa: ASYNC110 - another process holds it
        await asyncio.sleep(LOCK_AGAIN_S)


async def lock(connection: Connection, name: str, shared: bool = False) -> bool:
    """Take the lock on a name until the transaction ends, where nobody stands against it."""
    text = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0)) AS got"
    if shared:
        text = "SELECT pg_try_advisory_xact_lock_shared(hashtextextended(%s, 0)) AS got"
    row: Any = await (await connection.execute(text, (name,))).fetchone()
    return bool(row["got"])


async def nearest(connection: Connection, schema: str, code: str, cut: Cut) -> Kept | None:
    """The schema of the same code that holds most of what the cut holds, locked for copying."""
    found = [
        one for one in await kept(connection, schema) if one.code == code and cut.holds(one.cut)
    ]
    for one in sorted(found, key=lambda one: one.cut.events, reverse=True):
        if await lock(connection, one.name, shared=True) and await stands(connection, one.name):
            return one
    return None


async def copy_tables(connection: Connection, source: str, target: str) -> None:
    """Copy the rows of every table; columns that Postgres computes are computed anew."""
    cursor = await connection.execute(
        "SELECT c.relname AS name, array_agg(a.attname ORDER BY a.attnum) AS columns "
        "FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 "
        "AND NOT a.attisdropped AND a.attgenerated = '' "
        "WHERE c.relnamespace = %s::regnamespace AND c.relkind = 'r' "
        "GROUP BY c.relname ORDER BY c.relname",
        (target,),
    )
    for row in await cursor.fetchall():
        columns = sql.SQL(", ").join(map(sql.Identifier, row["columns"]))
        await connection.execute(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(
                sql.Identifier(target, row["name"]),
                columns,
                columns,
                sql.Identifier(source, row["name"]),
            )
        )


async def note(connection: Connection, one: Kept) -> None:
    """Write what a schema holds, and when it was last used, where it is dropped with it."""
    text = json.dumps(
        {
            "used_at_us": one.used_at_us,
            "code": one.code,
            "reaches": [
                [reach.topic, reach.partition, reach.base.text(), reach.events]
                for reach in one.cut.reaches
            ],
        }
    )
    await connection.execute(
        sql.SQL("COMMENT ON SCHEMA {} IS {}").format(sql.Identifier(one.name), sql.Literal(text))
    )


async def kept(connection: Connection, schema: str) -> list[Kept]:
    """The past schemas that stand, by name."""
    cursor = await connection.execute(
        "SELECT nspname AS name, obj_description(oid, 'pg_namespace') AS said FROM pg_namespace "
        "WHERE starts_with(nspname, %s) ORDER BY nspname",
        (prefix(schema),),
    )
    found = []
    for row in await cursor.fetchall():
        said = json.loads(row["said"] or '{"used_at_us": 0, "code": "", "reaches": []}')
        reaches = tuple(
            Reach(topic, partition, Base.parse(base), events)
            for topic, partition, base, events in said["reaches"]
        )
        found.append(Kept(row["name"], said["used_at_us"], said["code"], Cut(reaches, True)))
    return found


async def touch(store: Store, name: str) -> None:
    """Note that a schema was used now."""
    async with store.connection() as connection:
        for one in await kept(connection, store.schema):
            if one.name == name and await lock(connection, name, shared=True):
                await note(connection, one._replace(used_at_us=now_us()))


async def sweep(store: Store, kept_max: int = KEPT_MAX) -> list[str]:
    """Drop the past schemas that are idle or too many, but none that is in use; their names."""
    dropped = []
    async with store.connection() as connection:
        newest = sorted(
            await kept(connection, store.schema), key=lambda one: one.used_at_us, reverse=True
        )
    for place, one in enumerate(newest):
        if place < kept_max and one.used_at_us > now_us() - IDLE_US_MAX:
            continue
        async with store.connection() as connection:
            if await lock(connection, one.name):
                await connection.execute(
                    sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(one.name))
                )
                dropped.append(one.name)
    return dropped
