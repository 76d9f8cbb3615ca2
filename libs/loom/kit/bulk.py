"""Runs the statements of a batch in few round trips, as if one by one.

1. Statements of one text become one call of a function that runs that very text for each row, in
   order: what a row reads and writes is what it would be alone. Only rows of a plain INSERT, which
   cannot see one another, go in by one INSERT … SELECT.
2. A function lives in `pg_temp` and dies with its session; its parameters have the types that
   Postgres itself infers for the text. A value whose Python type is not exactly that type's goes
   with its statements one by one, so nothing is cast that would not be cast alone.
3. Which texts may be brought together is `kit.grouping`'s to prove.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any, LiteralString, cast

import psycopg

from loom.decider import Statement
from loom.kit.arrays import PYTHON, array_of, arrays_of
from loom.kit.grouping import Group, Table, plan, shape_of
from loom.store import Connection

__all__ = ["run_all"]

MANY = 24
"""From so many on a batch is grouped, or a group is one call; below it costs more than it saves."""
PARAMETERS_MAX = 100
"""So many arguments a function may have."""
VALUES = re.compile(r"VALUES\s*\($", re.I)
KEYS = {"text": str, "smallint": int, "integer": int, "bigint": int, "bytea": bytes}
"""Types whose equality is that of Python's values."""

TABLES = """
SELECT c.relname AS name,
  NOT (c.relhasrules OR c.relhastriggers OR c.relrowsecurity OR c.relhassubclass
    OR c.relispartition OR c.relkind <> 'r' OR EXISTS (
      SELECT FROM pg_attribute AS a LEFT JOIN pg_attrdef AS d
        ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        AND (a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) LIKE '%%(%%'))) AS apart,
  (SELECT count(*) FROM pg_index AS i WHERE i.indrelid = c.oid
     AND (i.indisunique OR i.indisexclusion)) = 1 AS one_key,
  ARRAY(SELECT a.attname::text FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0
     AND NOT a.attisdropped ORDER BY a.attnum) AS columns,
  ARRAY(SELECT ARRAY[a.attname::text, CASE WHEN l.collisdeterministic IS FALSE THEN ''
       ELSE format_type(a.atttypid, a.atttypmod) END]
     FROM pg_index AS i JOIN pg_attribute AS a
       ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
     LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
     WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY a.attnum) AS key
FROM pg_class AS c WHERE c.oid IN (SELECT to_regclass(n) FROM unnest(%s::text[]) AS n)
"""
STANDING = (
    "SELECT proname AS name, obj_description(oid, 'pg_proc') AS types FROM pg_proc"
    " WHERE pronamespace = pg_my_temp_schema() AND proname = ANY(%s)"
)
INFERRED = (
    "SELECT parameter_types::text[] AS types FROM pg_prepared_statements"
    " WHERE name = 'loom_inferred'"
)


async def run_all(connection: Connection, statements: Sequence[Statement]) -> None:
    """Run statements as if in order; raises what one of those that failed raised."""
    if len(statements) < MANY:
        await singly(connection, statements)
        return
    groups = await grouped(connection, statements)
    types = await callables(connection, {one.sql for one in groups if len(one.rows) >= MANY})
    waiting: list[Statement] = []
    for group in groups:
        kinds = types.get(group.sql, ()) if len(group.rows) >= MANY else ()
        arrays = arrays_of(group.rows, kinds) if kinds else None
        if arrays is None:
            waiting += [Statement(group.sql, row) for row in group.rows]
            continue
        await singly(connection, waiting)
        waiting = []
        await connection.execute(call_of(group.sql, kinds), arrays)
    await singly(connection, waiting)


async def singly(connection: Connection, statements: Sequence[Statement]) -> None:
    """Send each statement by itself, all before the first answer is waited for."""
    if len(statements) == 1:
        await connection.execute(cast(LiteralString, statements[0].sql), statements[0].parameters)
    elif statements:
        async with connection.pipeline():
            for text, parameters in statements:
                await connection.execute(cast(LiteralString, text), parameters)


async def grouped(connection: Connection, statements: Sequence[Statement]) -> list[Group]:
    """The statements in groups; the catalogue is asked where there is more than one text."""
    texts = {text for text, _ in statements}
    if len(texts) == 1:
        return [Group(statements[0].sql, [one.parameters for one in statements])]
    names = {shape_of(text).table for text in texts} - {""}
    rows = await (await connection.execute(TABLES, (list(names),))).fetchall()
    return plan(statements, {row["name"]: table_of(row) for row in rows})


def table_of(row: dict[str, Any]) -> Table:
    """A table as the catalogue has it."""
    types = {name: KEYS.get(kind) for name, kind in row["key"]} if row["one_key"] else {}
    key = {name: kind for name, kind in types.items() if kind is not None}
    return Table(tuple(row["columns"]), row["apart"], key if len(key) == len(types) else {})


async def callables(connection: Connection, texts: set[str]) -> dict[str, tuple[str, ...]]:
    """Those texts that one call can run for many rows, each with its parameters' types."""
    if not texts:
        return {}
    names = {name_of(text): text for text in texts}
    rows = await (await connection.execute(STANDING, (list(names),))).fetchall()
    found = {names[row["name"]]: tuple(row["types"].split(",")) for row in rows}
    for text in sorted(texts - set(found)):
        types = await made(connection, text)
        if types:
            found[text] = types
    return found


async def made(connection: Connection, text: str) -> tuple[str, ...]:
    """Make the function of a text; its parameters' types, none where it can have no function."""
    shape, places = shape_of(text), text.count("%s")
    if not shape.known or not 0 < places <= PARAMETERS_MAX:
        return ()
    try:
        async with connection.transaction():
            numbered = filled(text, [f"${number}" for number in range(1, places + 1)])
            await connection.execute(cast(LiteralString, f"PREPARE loom_inferred AS {numbered}"))
            row = await (await connection.execute(INFERRED)).fetchone()
            await connection.execute("DEALLOCATE loom_inferred")
            assert row is not None
            types = tuple(row["types"])
            if not all(kind.removesuffix("[]") in PYTHON for kind in types):
                return ()
            await connection.execute(cast(LiteralString, function(text, shape.values, types)))
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        # It has no types that can be inferred: one by one it may still run, or say what is wrong.
        return ()
    return types


def function(text: str, values: tuple[int, int] | None, types: Sequence[str]) -> str:
    """The SQL that makes a text's function."""
    arguments = ", ".join(map(array_of, types))
    given = ", ".join(f"${number}" for number in range(1, len(types) + 1))
    names = ", ".join(f"p{number}" for number in range(1, len(types) + 1))
    rows = f"unnest({given}) AS loom_row ({names})"
    cells = [
        f"loom_row.p{number}" + (f"::{kind}" if kind.endswith("[]") else "")
        for number, kind in enumerate(types, 1)
    ]
    if values is None:
        # The texts are those of `project`, never of a caller.
        body = f"FOR loom_row IN SELECT * FROM {rows} LOOP {filled(text, cells)}; END LOOP"  # noqa: S608
    else:
        first, last = values
        into, items, rest = text[:first], text[first:last], text[last + 1 :]
        body = f"{VALUES.sub('', into)} SELECT {filled(items, cells)} FROM {rows} {rest}"  # noqa: S608
    name = f"pg_temp.{name_of(text)}"
    return (
        f"CREATE FUNCTION {name}({arguments}) RETURNS void LANGUAGE plpgsql AS $loom$"
        f"\n#variable_conflict use_column\nDECLARE loom_row record; BEGIN {body}; END $loom$;"
        f" COMMENT ON FUNCTION {name} IS '{','.join(types)}'"
    )


def filled(text: str, cells: Sequence[str]) -> str:
    """A text with these in its parameters' places."""
    parts = text.split("%s")
    return parts[0] + "".join(map("".join, zip(cells, parts[1:], strict=True)))


def name_of(text: str) -> str:
    """The name of a text's function."""
    return f"loom_{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def call_of(text: str, types: Sequence[str]) -> LiteralString:
    """The call of a text's function."""
    arguments = ", ".join(f"%b::{array_of(kind)}" for kind in types)
    return cast(LiteralString, f"SELECT pg_temp.{name_of(text)}({arguments})")
