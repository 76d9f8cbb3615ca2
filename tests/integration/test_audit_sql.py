"""Auditors' SQL on a real index: their own rows, and nothing but reading them."""

import json
import types

import psycopg
import pytest
from tests.searching import NASTY, SCHEMA, appended, caller, put

from loom.decider import Code, Rejected
from loom.kit.caller import Scope
from loom.store import Store
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.query import sql


@pytest.fixture
async def store(fresh_database, settings):
    store = Store(settings("loomdb").postgres, "loomdb")
    await store.open()
    await store.prepare(SCHEMA)
    yield store
    await store.close()


@pytest.fixture
async def ask(store, settings):
    async with store.connection() as db:
        await put(db, *(appended(at, payload) for at, payload in enumerate(NASTY)))
        await put(db, appended(100, {"n": 7}, "other"))
    shell = types.SimpleNamespace(settings=settings("loomdb"), db=store.connection)

    async def run(text: str, organisation: str = "acme", **more) -> pb.AuditSqlResult:
        request = pb.RunAuditSqlRequest(organisation_id=organisation, sql=text, **more)
        everything = caller(scope=Scope(True, [], []))
        who = everything if organisation == "platform" else caller(organisation)
        return await sql.run_audit_sql(request, who, shell)

    return run


async def test_auditors_ask_in_sql_of_their_own_rows(ask):
    answer = await ask("SELECT organisation_id, count(*) AS n FROM events GROUP BY 1")
    assert (answer.columns, answer.rows, answer.complete) == (
        ["organisation_id", "n"],
        ['["acme", 6]'],
        True,
    )
    both = await ask("SELECT count(*), count(*) FROM events", "platform")
    assert both.rows == ["[7, 7]"]
    stories = await ask("SELECT correlation_id, events FROM stories ORDER BY 1")
    assert stories.rows == ['["story-0", 2]', '["story-1", 2]', '["story-2", 2]']
    assert (await ask("SELECT 1 FROM commands", "other")).rows == ["[1]"]
    some = await ask("SELECT event_id FROM events", limit=2)
    assert len(some.rows) == 2
    assert not some.complete
    long = await ask("SELECT repeat('x', 1500000) FROM events")
    assert len(long.rows) == 1
    assert not long.complete
    assert (await ask("SELECT 1 WHERE false")).complete
    told = """SELECT data, data, '[{"a": {"b": []}}]'::json FROM events WHERE version = 4"""
    (row,) = map(json.loads, (await ask(told)).rows)
    assert row == [NASTY[3], NASTY[3], [{"a": {"b": []}}]]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM audit_events", "SELECT * FROM loomdb.audit_events",
        "SELECT * FROM loomdb_auditor.readers", "SELECT * FROM positions",
        "DELETE FROM events", "INSERT INTO loomdb_auditor.readers VALUES (1, 'platform')",
        "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE audit_events", "DROP VIEW events",
        "SELECT pg_read_file('/etc/passwd')", "SELECT pg_ls_dir('/')",
        "COPY events TO STDOUT", "COPY events TO PROGRAM 'cat'", "COPY (SELECT 1) TO '/tmp/x'",
        "SELECT lo_import('/etc/passwd')", "SELECT lo_create(0)", "SET ROLE loomos_loomdb",
        "SELECT set_config('role', 'loomos_loomdb', true)", "RESET ROLE",
        "CREATE TABLE x (y int)", "CREATE TEMP TABLE x (y int)", "BEGIN", "COMMIT", "",
        "SELECT * INTO x FROM events", "EXPLAIN ANALYZE DELETE FROM events",
        "WITH gone AS (DELETE FROM events RETURNING *) SELECT * FROM gone",
        "DO $$ BEGIN PERFORM 1; END $$", "LISTEN x", "SELECT pg_advisory_lock(1)",
        "SELECT pg_notify('a', 'b')", "SELECT * FROM dblink('x', 'y')", "SELECT 1/0",
        "VALUES (", "SELECT rolpassword FROM pg_authid", "SELECT pg_stat_file('/etc/passwd')",
    ],
)  # fmt: skip
async def test_sql_that_does_more_than_read_the_views_is_refused_by_the_server(ask, store, text):
    with pytest.raises(Rejected) as refused:
        await ask(text)
    assert refused.value.code == Code.INVALID_ARGUMENT
    assert refused.value.message
    async with store.connection() as db:
        left = await (await db.execute("SELECT count(*) AS n FROM audit_events")).fetchone()
        assert left["n"] == len(NASTY) + 1
        readers = await db.execute("SELECT FROM loomdb_auditor.readers")
        assert not await readers.fetchall()


async def test_no_setting_shows_an_auditor_other_rows(ask):
    tried = (
        "SELECT set_config('search_path', 'loomdb_auditor', true), count(*) FROM events",
        "SELECT set_config('statement_timeout', '0', true), count(*) FROM events",
        "SELECT set_config('transaction_read_only', 'off', true), count(*) FROM events",
    )
    for text in tried:
        try:
            answer = await ask(text)
        except Rejected:
            continue
        assert [json.loads(row)[1] for row in answer.rows] == [6]


async def test_sql_that_takes_long_is_ended(ask, monkeypatch):
    monkeypatch.setattr(sql, "TIME_MS", 200)
    for text in (
        "SELECT pg_sleep(60)",
        "SELECT count(*) FROM generate_series(1, 100000000) a, generate_series(1, 1000) b",
    ):
        with pytest.raises(Rejected) as refused:
            await ask(text)
        assert refused.value.code == Code.FAILED_PRECONDITION


async def test_sql_is_for_who_may_read_the_whole_trail(store, settings):
    shell = types.SimpleNamespace(settings=settings("loomdb"), db=store.connection)
    request = pb.RunAuditSqlRequest(organisation_id="acme", sql="SELECT 1")
    with pytest.raises(Rejected) as refused:
        await sql.run_audit_sql(request, caller(scope=Scope(False, [], ["acme.p"])), shell)
    assert refused.value.code == Code.PERMISSION_DENIED


async def test_the_auditors_role_cannot_log_in_and_read_by_itself(ask, settings):
    target = sql.dsn_of(settings("loomdb").credentials / "auditor.dsn")
    async with await psycopg.AsyncConnection.connect(target) as connection:
        cursor = await connection.execute("SELECT count(*) FROM loomdb.events")
        assert await cursor.fetchone() == (0,)
