"""Auditors' SQL: one SELECT over the views of schema.sql, or over the archive, and nothing else.

1. No text is parsed here. The question runs as a role of its own that may read the views and no
   table, through a function that can only open a cursor and read (`audit_sql`), in a read-only
   transaction, within TIME_MS and so many rows and bytes.
2. Whose rows the views show is written beside the connection's process id, by LoomDB, where the
   role can neither read nor write it.
3. What is sealed stays sealed. A connection serves one question.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.kit.errors import Failure
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.decide import PLATFORM
from loomos.loomdb.query import sql_cold

__all__ = ["run_audit_sql"]

ROWS = 1000
BYTES_MAX = 2_000_000
TIME_MS = 10_000
CONNECT_S = 5
DSN = "auditor.dsn"
AWAY = ("08", "57", "58")
"""Classes of errors that are not of the question's making."""


@dataclass(slots=True)
class Pairs:
    """A JSON object as its text has it: a row's columns may share a name."""

    of: list[tuple[str, Any]]


async def run_audit_sql(
    request: pb.RunAuditSqlRequest, caller: Caller, shell: Any
) -> pb.AuditSqlResult:
    """What the SELECT finds in what the caller may see."""
    scope = caller.scope("RunAuditSql")
    if not scope.all and (
        request.organisation_id == PLATFORM or request.organisation_id not in scope.organisations
    ):
        told = "SQL is for who may read the whole organisation's trail: use a search instead"
        raise Rejected(Code.PERMISSION_DENIED, told, "organisation_id")
    if "\0" in request.sql:
        raise Rejected(Code.INVALID_ARGUMENT, "sql holds a NUL character: leave it out", "sql")
    limit = request.limit or ROWS
    if request.cold:
        whose = "" if request.organisation_id == PLATFORM else request.organisation_id
        found = await sql_cold.answered(whose, request.sql, limit, BYTES_MAX, shell)
    else:
        found = await asked(request, limit, shell)
    columns, rows, complete = found
    return pb.AuditSqlResult(columns=columns, rows=rows, complete=complete)


async def asked(
    request: pb.RunAuditSqlRequest, limit: int, shell: Any
) -> tuple[list[str], list[str], bool]:
    """Columns and rows, and whether they are all of them."""
    try:
        connection = await psycopg.AsyncConnection[Any].connect(
            dsn_of(shell.settings.credentials / DSN),
            connect_timeout=CONNECT_S,
            row_factory=dict_row,
            application_name="loomos-auditor",
        )
    except psycopg.OperationalError as error:
        told = f"the auditors' connection cannot be had now ({str(error).strip()}): retry"
        raise Failure("UNAVAILABLE", told) from error
    async with connection:
        pid = connection.info.backend_pid
        schema = await shown_to(pid, request.organisation_id, shell)
        try:
            return await answered(connection, schema, request.sql, limit)
        except psycopg.errors.QueryCanceled as late:
            told = f"the query took more than {TIME_MS} ms: narrow it, e.g. by at_us or type"
            raise Rejected(Code.FAILED_PRECONDITION, told, "sql") from late
        except psycopg.Error as error:
            if (error.sqlstate or AWAY[0])[:2] in AWAY:
                told = f"the database went away: {str(error).strip()}"
                raise Failure("UNAVAILABLE", told) from error
            said = error.diag.message_primary or str(error)
            raise Rejected(Code.INVALID_ARGUMENT, f"the database says: {said}", "sql") from error
        finally:
            async with shell.db() as db:
                await db.execute("DELETE FROM loomdb_auditor.readers WHERE pid = %s", (pid,))


def dsn_of(path: Path) -> str:
    """How auditors reach the database; raises Rejected where nobody made them a role."""
    try:
        return path.read_text().strip()
    except OSError as error:
        told = "this platform has no database role for auditors: `loomos up` makes one"
        raise Rejected(Code.FAILED_PRECONDITION, told) from error


async def shown_to(pid: int, organisation: str, shell: Any) -> str:
    """Say whose rows a connection sees; the schema that holds the views."""
    async with shell.db() as db:
        await db.execute(
            "INSERT INTO loomdb_auditor.readers VALUES (%s, %s) "
            "ON CONFLICT (pid) DO UPDATE SET organisation_id = excluded.organisation_id",
            (pid, organisation),
        )
        row: Any = await (await db.execute("SELECT current_schema() AS name")).fetchone()
    return row["name"]


async def answered(
    connection: psycopg.AsyncConnection[Any], schema: str, text: str, limit: int
) -> tuple[list[str], list[str], bool]:
    """Run the question; the transaction ends without a trace."""
    await connection.set_read_only(True)
    async with connection.transaction(force_rollback=True):
        path = sql.SQL("SET LOCAL search_path = {}").format(sql.Identifier(schema))
        await connection.execute(path)
        await connection.execute(
            "SELECT set_config('statement_timeout', %s, true), set_config('jit', 'off', true)",
            (str(TIME_MS),),
        )
        cursor = await connection.execute(
            "SELECT told FROM audit_sql(%s, %s, %s) AS told", (text, limit + 1, BYTES_MAX)
        )
        found = [row["told"] for row in await cursor.fetchall()]
    # Each row comes as its text: pairs, so that columns of one name are both there.
    ended = bool(found) and found[-1] is None
    pairs = [json.loads(one, object_pairs_hook=Pairs).of for one in found if one is not None]
    columns = [str(name) for name, _ in pairs[0]] if pairs else []
    rows = [
        json.dumps([value for _, value in one], ensure_ascii=False, default=lambda it: dict(it.of))
        for one in pairs[:limit]
    ]
    return columns, rows, not ended and len(pairs) <= limit
