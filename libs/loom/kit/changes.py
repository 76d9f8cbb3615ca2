"""What changed in a service's read models between two schemas of its past.

1. A row is shown to who may see its project or its organisation, before and after; a row that names
   neither only to who sees everything.
2. Tables whose comment in `schema.sql` is `private` are left out: no query answers from them.
3. Whole rows are compared as text, so a column of any type counts; bytes are shown by digest.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import sql

from loom.decider import Code, Rejected
from loom.store import OWN_TABLES, Connection
from loom.v1 import travel_pb2 as pb

__all__ = ["changes_between"]

LIMIT = 1000
BYTES_MAX = 3 * 1024 * 1024
PRIVATE = "private"
TABLES = """
SELECT c.relname AS name,
    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
        AND NOT a.attisdropped ORDER BY a.attnum) AS columns,
    ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
        AND a.atttypid IN ('text'::regtype, 'varchar'::regtype)) AS texts,
    ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid
        AND a.attnum = ANY(i.indkey::int2[]) WHERE i.indrelid = c.oid AND i.indisprimary
        ORDER BY array_position(i.indkey::int2[], a.attnum)) AS key
FROM pg_class c
WHERE c.relnamespace = %s::regnamespace AND c.relkind IN ('r', 'p')
    AND coalesce(obj_description(c.oid, 'pg_class'), '') <> %s
ORDER BY c.relname"""


class Table(NamedTuple):
    """What of a table matters here."""

    name: str
    columns: list[str]
    texts: list[str]
    key: list[str]


async def changes_between(
    request: pb.ListChangesRequest, service: str, earlier: str, later: str, db: Connection
) -> pb.Changes:
    """The rows that differ between two schemas, by table and key."""
    cursor = await db.execute(TABLES, (later, PRIVATE))
    tables = [Table(**row) for row in await cursor.fetchall() if row["name"] not in OWN_TABLES]
    if request.table:
        tables = [table for table in tables if table.name == request.table]
        if not tables:
            told = f"{service} has no table {request.table!r}"
            raise Rejected(Code.NOT_FOUND, told, "table")
    limit = request.limit or LIMIT
    answer = pb.Changes(complete=True, from_us=request.from_us, to_us=request.to_us)
    size = 0
    for table in tables:
        for row in await rows_of(request, table, earlier, later, limit + 1, db):
            change = change_of(service, table, row)
            size += change.ByteSize()
            if len(answer.changes) == limit or size > BYTES_MAX:
                answer.complete = False
                return answer
            answer.changes.append(change)
    return answer


async def rows_of(
    request: pb.ListChangesRequest,
    table: Table,
    earlier: str,
    later: str,
    limit: int,
    db: Connection,
) -> list[Any]:
    """The rows of one table that differ, as JSON before and after."""
    # Without a key a row can only come or go: its own text is what it is known by.
    match_on = [
        sql.SQL("a.{0} = b.{0}").format(sql.Identifier(column)) for column in table.key
    ] or [sql.SQL("a::text = b::text")]
    conditions = [
        sql.SQL("({side}::text IS NULL OR ({seen}))").format(
            side=sql.Identifier(side), seen=shown(request, table, side)
        )
        for side in ("a", "b")
    ]
    query = sql.SQL(
        "SELECT row_to_json(a)::text AS before, row_to_json(b)::text AS after "
        "FROM {earlier} a FULL JOIN {later} b ON {match} "
        "WHERE a::text IS DISTINCT FROM b::text AND {conditions} "
        'ORDER BY coalesce(row_to_json(b)::text, row_to_json(a)::text) COLLATE "C" LIMIT {limit}'
    ).format(
        earlier=sql.Identifier(earlier, table.name),
        later=sql.Identifier(later, table.name),
        match=sql.SQL(" AND ").join(match_on),
        conditions=sql.SQL(" AND ").join(conditions),
        limit=sql.Literal(limit),
    )
    parameters = {
        "organisations": list(request.organisations),
        "projects": list(request.projects),
        "id": request.row_id,
    }
    return await (await db.execute(query, parameters)).fetchall()


def shown(request: pb.ListChangesRequest, table: Table, side: str) -> sql.Composable:
    """The condition for a row of one side: that it may be seen, and was asked for."""
    row = sql.Identifier(side)
    owners: list[sql.Composable] = []
    if "organisation_id" in table.columns:
        owners.append(sql.SQL("{}.organisation_id = ANY(%(organisations)s)").format(row))
    if "project_id" in table.columns:
        owners.append(sql.SQL("{}.project_id = ANY(%(projects)s)").format(row))
        inside = "split_part({}.project_id, '.', 1) = ANY(%(organisations)s)"
        owners.append(sql.SQL(inside).format(row))
    seen = sql.SQL("true") if request.all else any_of(owners)
    if not request.row_id:
        return seen
    named = [
        sql.SQL("{} = %(id)s").format(sql.Identifier(side, name))
        for name in table.texts
        if name.endswith("_id") or name in table.key
    ]
    return sql.SQL("({}) AND ({})").format(seen, any_of(named))


def any_of(conditions: Sequence[sql.Composable]) -> sql.Composable:
    """One of these; never, where there is none."""
    return sql.SQL(" OR ").join(conditions or [sql.SQL("false")])


def change_of(service: str, table: Table, row: dict[str, Any]) -> pb.RowChange:
    """A pair of rows as the contract says it."""
    before = json.loads(row["before"]) if row["before"] else None
    after = json.loads(row["after"]) if row["after"] else None
    kind = pb.CHANGE_KIND_CHANGED
    if before is None:
        kind = pb.CHANGE_KIND_ADDED
    elif after is None:
        kind = pb.CHANGE_KIND_REMOVED
    there = after if after is not None else before or {}
    change = pb.RowChange(service=service, table=table.name, kind=kind)
    if table.key:
        change.key = json.dumps({name: there[name] for name in table.key}, ensure_ascii=False)
    for name in table.columns:
        old = value_of(before, name)
        new = value_of(after, name)
        if old != new:
            change.columns.add(name=name, before=old, after=new)
    return change


def value_of(row: dict[str, Any] | None, name: str) -> str:
    """A column's value as JSON, "" where there is no row."""
    if row is None:
        return ""
    value = row[name]
    if isinstance(value, str) and value.startswith("\\x") and len(value) % 2 == 0:
        return json.dumps(bytes_shown(value))
    return json.dumps(value, ensure_ascii=False)


def bytes_shown(text: str) -> str:
    """Bytes, which Postgres writes in hex, by length and digest; other text as it is."""
    try:
        data = bytes.fromhex(text[2:])
    except ValueError:
        return text
    return f"{len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()[:16]}"
