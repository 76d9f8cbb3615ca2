"""Postgres: read models, positions by compare-and-set, leases. Never a source of truth.

1. A position moves in the transaction that wrote what it stands for, and only from the value and
   epoch that its owner last saw; zero rows changed means that someone else owns it (`Fenced`).
2. A lease keeps claimants from racing and tells callers where the owner is; it decides nothing.
   Wiping or restoring this database breaks nothing that the log knows.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, LiteralString, cast

from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

__all__ = ["OWN_TABLES", "Connection", "Fenced", "Store"]

Connection = AsyncConnection[dict[str, Any]]
LEASE_S = 6

OWN_TABLES = ("positions", "dead_letters", "schema_version", "snapshots")
"""What the shell keeps in every service's schema; never part of a read model."""

_OWN_DDL = """
CREATE TABLE IF NOT EXISTS positions (
  projection text NOT NULL, topic text NOT NULL, partition int NOT NULL,
  base text NOT NULL, epoch bigint NOT NULL,
  PRIMARY KEY (projection, topic, partition));
CREATE TABLE IF NOT EXISTS dead_letters (
  projection text NOT NULL, topic text NOT NULL, partition int NOT NULL,
  record_offset bigint NOT NULL, stream text NOT NULL, type text NOT NULL,
  reason text NOT NULL, attempts int NOT NULL,
  parked_at timestamptz NOT NULL DEFAULT now(), noticed boolean NOT NULL DEFAULT false,
  PRIMARY KEY (projection, topic, partition, record_offset));
CREATE TABLE IF NOT EXISTS schema_version (digest text PRIMARY KEY);
CREATE TABLE IF NOT EXISTS snapshots (
  topic text NOT NULL, partition int NOT NULL, base text NOT NULL, code_digest text NOT NULL,
  digest bytea NOT NULL, state bytea NOT NULL, PRIMARY KEY (topic, partition));
"""

_LEASES = """
CREATE TABLE IF NOT EXISTS loom.leases (
  topic text NOT NULL, partition int NOT NULL, owner text NOT NULL, address text NOT NULL,
  epoch bigint NOT NULL, expires_at timestamptz NOT NULL, PRIMARY KEY (topic, partition));
"""


class Fenced(Exception):
    """The position was moved by another owner: roll back and stop."""


class Store:
    """A service's own schema, and the shared leases."""

    def __init__(self, dsn: str, schema: str, connections_max: int = 8) -> None:
        self.schema = schema
        self._pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=connections_max,
            open=False,
            kwargs={
                "row_factory": dict_row,
                "options": f"-c search_path={schema} -c statement_timeout=60000",
                "application_name": f"loomos-{schema}",
            },
            check=AsyncConnectionPool.check_connection,
        )

    async def open(self) -> None:
        """Connect; raises psycopg.OperationalError or PoolTimeout when it cannot within 30 s."""
        await self._pool.open(wait=True, timeout=30)

    async def close(self) -> None:
        """Disconnect."""
        await self._pool.close(timeout=2)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A pooled connection in a transaction: committed at the end, rolled back on error."""
        async with self._pool.connection(timeout=10) as connection:
            yield connection

    async def prepare(self, tables: str) -> bool:
        """Make the schema's tables; True when they were made anew and must be projected again.

        A read model has no migrations: other DDL than last time drops the tables and starts over.
        """
        digest = hashlib.sha256(tables.encode()).hexdigest()
        async with self.connection() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('loom'))")
            await connection.execute("SET LOCAL client_min_messages = warning")
            await connection.execute(_LEASES)
            await connection.execute(_OWN_DDL)
            found = await (await connection.execute("SELECT digest FROM schema_version")).fetchall()
            if [row["digest"] for row in found] == [digest]:
                return False
            name = sql.Identifier(self.schema)
            await connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(name))
            await connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
            await connection.execute(_OWN_DDL)
            await connection.execute(cast(LiteralString, tables))
            await connection.execute("INSERT INTO schema_version VALUES (%s)", (digest,))
            return True

    async def claim_position(
        self, projection: str, topic: str, partition: int, start: str
    ) -> tuple[str, int]:
        """Take over a position, `start` if there is none: (where to read on, the fencing epoch)."""
        async with self.connection() as connection:
            row = await (
                await connection.execute(
                    "INSERT INTO positions VALUES (%s, %s, %s, %s, 1) "
                    "ON CONFLICT (projection, topic, partition) DO UPDATE "
                    "SET epoch = positions.epoch + 1 RETURNING base, epoch",
                    (projection, topic, partition, start),
                )
            ).fetchone()
        assert row is not None
        return row["base"], row["epoch"]

    @staticmethod
    async def move_position(
        connection: Connection,
        projection: str,
        topic: str,
        partition: int,
        step: tuple[str, str],
        epoch: int,
    ) -> None:
        """Move the position from step[0] to step[1] inside the caller's transaction, or Fenced."""
        moved = await connection.execute(
            "UPDATE positions SET base = %s WHERE projection = %s AND topic = %s "
            "AND partition = %s AND base = %s AND epoch = %s",
            (step[1], projection, topic, partition, step[0], epoch),
        )
        if moved.rowcount != 1:
            raise Fenced(f"{projection} of {topic}/{partition} has another owner")

    async def hold_lease(
        self, topic: str, partition: int, owner: str, address: str, epoch: int = 0
    ) -> str:
        """Take or renew a lease; returns its owner, who is the caller unless another holds it."""
        async with self.connection() as connection:
            row = await (
                await connection.execute(
                    "INSERT INTO loom.leases VALUES "
                    "(%(topic)s, %(partition)s, %(owner)s, %(address)s, %(epoch)s, "
                    " now() + make_interval(secs => %(seconds)s)) "
                    "ON CONFLICT (topic, partition) DO UPDATE SET owner = excluded.owner, "
                    "address = excluded.address, epoch = excluded.epoch, "
                    "expires_at = excluded.expires_at "
                    "WHERE leases.owner = excluded.owner OR leases.expires_at < now() "
                    "RETURNING owner",
                    {
                        "topic": topic,
                        "partition": partition,
                        "owner": owner,
                        "address": address,
                        "epoch": epoch,
                        "seconds": LEASE_S,
                    },
                )
            ).fetchone()
            if row is not None:
                return row["owner"]
            held = await (
                await connection.execute(
                    "SELECT owner FROM loom.leases WHERE topic = %s AND partition = %s",
                    (topic, partition),
                )
            ).fetchone()
            return held["owner"] if held else ""

    async def release_lease(self, topic: str, partition: int, owner: str) -> None:
        """Give a lease up, so that the next claimant need not wait."""
        async with self.connection() as connection:
            await connection.execute(
                "DELETE FROM loom.leases WHERE topic = %s AND partition = %s AND owner = %s",
                (topic, partition, owner),
            )

    async def owner_address(self, topic: str, partition: int) -> str:
        """Where the owner of a partition listens, or "" while nobody holds it."""
        async with self.connection() as connection:
            row = await (
                await connection.execute(
                    "SELECT address FROM loom.leases WHERE topic = %s AND partition = %s "
                    "AND expires_at > now() - interval '1 minute'",
                    (topic, partition),
                )
            ).fetchone()
        return row["address"] if row else ""
