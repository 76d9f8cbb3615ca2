"""Statements in groups leave what they leave one by one, on the real Postgres."""

import asyncio

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from loom.decider import Statement
from loom.kit import bulk
from loom.kit.bulk import run_all

TABLES = """
CREATE TEMP TABLE jobs (job_id text PRIMARY KEY, node_id text NOT NULL DEFAULT '', status int,
  number bigint NOT NULL DEFAULT 0, data bytea, names text[]);
CREATE TEMP TABLE story (job_id text, version int, said json, value double precision, flag boolean,
  PRIMARY KEY (job_id, version));
CREATE TEMP TABLE users (user_id text PRIMARY KEY, name text UNIQUE);
CREATE TEMP TABLE counts (node_id text PRIMARY KEY, jobs bigint NOT NULL);
CREATE TEMP TABLE heirs (number int PRIMARY KEY, job_id text NOT NULL, owner text NOT NULL);
"""
NAMES = ("jobs", "story", "users", "counts", "heirs")
INSERT = (
    "INSERT INTO jobs (job_id, status, number) VALUES (%s, 1, %s) ON CONFLICT (job_id) DO NOTHING"
)
UPSERT = (
    "INSERT INTO jobs (job_id, node_id, status, data, names) VALUES (%s, %s, %s, %s, %s) "
    "ON CONFLICT (job_id) DO UPDATE SET status = jobs.status * 3 + excluded.status, "
    "data = excluded.data, names = excluded.names"
)
MOVE = "UPDATE jobs SET node_id = %s, status = status + 1 WHERE job_id = %s"
COUNT = "UPDATE jobs SET number = number * 3 + %s WHERE job_id = %s"
NODE = "UPDATE jobs SET number = number * 5 + 1 WHERE node_id = %s"
DELETE = "DELETE FROM jobs WHERE job_id = %s"
STORY = "INSERT INTO story VALUES (%s, %s, %s, %s, %s) ON CONFLICT (job_id, version) DO NOTHING"
USER = "INSERT INTO users VALUES (%s, %s) ON CONFLICT DO NOTHING"
GONE = "DELETE FROM users WHERE user_id = %s"
COUNTED = (
    "INSERT INTO counts VALUES (%s, %s) ON CONFLICT (node_id) DO UPDATE "
    "SET jobs = counts.jobs / 2 + excluded.jobs * 5"
)
SUMMED = (
    "UPDATE counts SET jobs = jobs * 2 + (SELECT coalesce(sum(number), 0) FROM jobs "
    "WHERE node_id = %s)"
)
HEIR = (
    "INSERT INTO heirs VALUES (%s, %s, COALESCE(NULLIF(%s, ''), (SELECT owner FROM heirs "
    "WHERE job_id = %s AND owner <> '' ORDER BY number LIMIT 1), '')) ON CONFLICT DO NOTHING"
)

ids = st.sampled_from(["a", "b", "c", "it's", 'q"\\', "é", ""])
small = st.integers(-3, 3)


def told(text: str, *values: st.SearchStrategy) -> st.SearchStrategy[Statement]:
    return st.tuples(*values).map(lambda row: Statement(text, row))


statements = st.lists(
    st.one_of(
        told(INSERT, ids, small),
        told(UPSERT, ids, ids, st.none() | small, st.none() | st.binary(max_size=3),
             st.none() | st.lists(ids, max_size=2)),
        told(MOVE, ids, ids),
        told(COUNT, small, ids),
        told(NODE, ids),
        told(DELETE, ids),
        told(STORY, ids, small, st.sampled_from(['{"a": 1}', "[]"]),
             st.none() | st.floats() | small, st.booleans()),
        told(USER, ids, ids),
        told(GONE, ids),
        told(COUNTED, ids, small),
        told(SUMMED, ids),
        told(HEIR, small, ids, ids, ids),
    ),
    max_size=60,
)  # fmt: skip


@pytest.fixture
def session(platform, monkeypatch):
    """An event loop and a connection to empty tables; two like statements make a group."""
    monkeypatch.setattr(bulk, "MANY", 2)
    with asyncio.Runner() as runner:
        connecting = psycopg.AsyncConnection.connect(platform.admin_dsn, row_factory=dict_row)
        connection = runner.run(connecting)
        runner.run(connection.execute(TABLES))
        runner.run(connection.commit())
        yield runner, connection
        runner.run(connection.close())


async def content(connection) -> list[list[str]]:
    found = []
    for name in NAMES:
        rows = await connection.execute(f"SELECT t::text AS row FROM {name} AS t")
        found.append(sorted(row["row"] for row in await rows.fetchall()))
    return found


async def left(connection, run, told: list[Statement]) -> list[list[str]] | None:
    """What a way of running the statements leaves in empty tables; None when it is refused."""
    try:
        await run(connection, told)
        return await content(connection)
    except psycopg.Error:
        return None
    finally:
        await connection.rollback()


async def one_by_one(connection, told: list[Statement]) -> None:
    for text, parameters in told:
        await connection.execute(text, parameters)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(told=statements)
def test_groups_leave_what_single_statements_leave(session, told):
    runner, connection = session
    assert runner.run(left(connection, run_all, told)) == runner.run(
        left(connection, one_by_one, told)
    )


def test_many_rows_go_in_few_round_trips(session, monkeypatch):
    runner, connection = session
    told = []
    for number in range(300):
        told += [
            Statement(INSERT, (f"j{number}", number)),
            Statement(STORY, (f"j{number}", 1, "{}", 0.5, True)),
            Statement(MOVE, ("n", f"j{number}")),
            Statement(COUNTED, ("n", 1)),
        ]
    sent = []
    execute = psycopg.AsyncConnection.execute

    async def noted(self, query, *rest, **more):
        sent.append(query)
        return await execute(self, query, *rest, **more)

    async def run():
        await run_all(connection, told[:8])
        await connection.execute("TRUNCATE jobs, story, counts")
        monkeypatch.setattr(psycopg.AsyncConnection, "execute", noted)
        await run_all(connection, told)
        monkeypatch.undo()
        assert (await content(connection))[0][0].startswith("(j0,n,2,0")
        await connection.rollback()

    runner.run(run())
    assert len(sent) <= 10


@pytest.mark.parametrize(
    ("text", "rows", "error"),
    [
        (INSERT, [("a", "x"), ("b", "y")], psycopg.DataError),
        ("INSERT INTO users VALUES (%s, %s)", [("a", "x"), ("b", "x")], psycopg.IntegrityError),
        ("INSERT INTO jobs (job_id) VALUES (%s)", [("a\0",), ("b",)], psycopg.DataError),
        ("UPDATE nowhere SET a = %s", [("a",), ("b",)], psycopg.errors.UndefinedTable),
        ("UPDATE jobs SET number = %s WHERE job_id = %s", [(True, "a"), (1, "b")], psycopg.Error),
        (INSERT, [("a", 2**70), ("b", 1)], psycopg.Error),
    ],
)
def test_what_fails_alone_fails_together(session, text, rows, error):
    runner, connection = session
    told = [Statement(text, row) for row in rows]
    for run in (one_by_one, run_all):
        with pytest.raises(error):
            runner.run(run(connection, told))
        runner.run(connection.rollback())


def test_a_function_outlives_neither_its_transaction_nor_the_table(session):
    runner, connection = session

    async def run():
        told = [Statement(INSERT, (f"j{number}", number)) for number in range(5)]
        await run_all(connection, told)
        await connection.rollback()
        await run_all(connection, told)
        await connection.commit()
        await connection.execute("DROP TABLE jobs")
        await connection.execute("CREATE TEMP TABLE jobs (number text, status int, job_id text)")
        await connection.commit()
        row = Statement("INSERT INTO jobs VALUES (%s, %s, %s)", ("1", 2, "j"))
        await run_all(connection, [row] * 3)
        rows = await (await connection.execute("SELECT * FROM jobs")).fetchall()
        assert rows == [{"number": "1", "status": 2, "job_id": "j"}] * 3

    runner.run(run())
