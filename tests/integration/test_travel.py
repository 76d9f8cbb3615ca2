"""As of a moment, on a real log and real tables: rows then, what is kept, what is dropped."""

import asyncio

import pytest
from tests.appending import append
from tests.integration.conftest import writing
from tests.travelling import over

from loom.decider import Recorded, Rejected, Statement
from loom.kit import scratch
from loom.kit.caller import Caller, Scope
from loom.kit.contract import Service
from loom.kit.errors import TRAVELLING, Failure
from loom.kit.rebuild import Followed, copy_range, make, table_digests
from loom.kit.travel import Travels
from loom.log.clock import now_us
from loom.log.judge import START
from loom.store import Store
from loom.v1 import common_pb2, loomdb_pb2
from loom.v1 import travel_pb2 as pb

TABLES = """
CREATE TABLE notes (stream text PRIMARY KEY, version bigint NOT NULL, said text NOT NULL);
CREATE TABLE lines (said text NOT NULL, raw bytea NOT NULL);
CREATE TABLE owned (stream_id text PRIMARY KEY, project_id text NOT NULL, said text NOT NULL);
CREATE TABLE hidden (stream text PRIMARY KEY);
COMMENT ON TABLE hidden IS 'private';
"""


def project(recorded: Recorded) -> list[Statement]:
    stream, said = recorded.stream, recorded.event.command_type
    return [
        Statement(
            "INSERT INTO notes VALUES (%s, %s, %s) ON CONFLICT (stream) DO UPDATE "
            "SET version = excluded.version, said = excluded.said",
            (stream, recorded.version, said),
        ),
        Statement("INSERT INTO lines VALUES (%s, %s)", (said, said.encode())),
        Statement(
            "INSERT INTO owned VALUES (%s, %s, %s) ON CONFLICT (stream_id) DO UPDATE "
            "SET said = excluded.said",
            (stream, f"{stream}.p", said),
        ),
        Statement("INSERT INTO hidden VALUES (%s) ON CONFLICT DO NOTHING", (stream,)),
    ]


def nothing(*_) -> None:
    return None


SERVICE = Service(
    name="checkpoint",
    contract=common_pb2,
    initial=nothing,
    decide=nothing,
    resource=nothing,
    evolve=nothing,
    project=project,
    schema=TABLES,
)


class Index:
    """Answers for loomdb when an event was."""

    def __init__(self) -> None:
        self.moments: dict[str, loomdb_pb2.Moment] = {}

    async def call(self, request, given, timeout_s, service=""):
        name = request.event_id or f"{request.position.topic}:{request.position.offset}"
        if name not in self.moments:
            raise Failure("NOT_FOUND", "no such event", "event_id")
        return self.moments[name]


class Rights:
    """Somebody of acme, or somebody who sees everything."""

    def __init__(self, all_rows: bool) -> None:
        self.all_rows = all_rows

    def scope(self, principal, action):
        return Scope(self.all_rows, [] if self.all_rows else ["acme"], [])


ROOT = Caller("user:root", "platform", "user", Rights(True))
ANN = Caller("user:ann", "acme", "user", Rights(False))


@pytest.fixture
async def store(fresh_log, fresh_database, settings):
    found = Store(settings("checkpoint").postgres, "checkpoint")
    await found.open()
    await found.prepare(TABLES)
    yield found
    await scratch.sweep(found, 0)
    await found.close()


@pytest.fixture
async def writer(bus, store):
    async with writing(bus, SERVICE.topic) as found:
        yield found


@pytest.fixture
async def travels(bus, store, settings):
    found = Travels(SERVICE, over(bus, settings("checkpoint")), store, Index())
    yield found
    await found.stop()


async def told(travels, as_of, caller=ROOT) -> dict[str, str]:
    async with travels.db(str(as_of), caller, "ListCheckpoints") as db:
        rows = await (await db.execute("SELECT stream, said FROM notes ORDER BY stream")).fetchall()
    return {row["stream"]: row["said"] for row in rows}


async def names(store) -> list[str]:
    async with store.connection() as connection:
        return [one.name for one in await scratch.kept(connection, "checkpoint")]


async def say(writer, note, *commands) -> int:
    """Append commands, and give a time right after them."""
    await append(writer, [note(*command) for command in commands])
    after = now_us()
    await asyncio.sleep(0.002)
    return after


async def test_rows_are_those_of_the_moment_and_cannot_be_written(store, writer, travels, note):
    before = now_us()
    first = await say(writer, note, ("a", 1, "one"), ("b", 1, "uno", "due"))
    second = await say(writer, note, ("a", 2, "two"))
    assert await told(travels, before) == {}
    assert await told(travels, first) == {"a": "one", "b": "due"}
    assert await told(travels, second) == {"a": "two", "b": "due"}
    # The live tables stand beside and were not touched: nobody projects here.
    async with store.connection() as connection:
        assert await (await connection.execute("SELECT FROM notes")).fetchall() == []
    with pytest.raises(Exception, match="read-only transaction"):
        async with travels.at(first) as db:
            await db.execute("DELETE FROM notes")


async def test_what_was_made_is_used_again_and_an_open_end_grows(store, writer, travels, note):
    first = await say(writer, note, ("a", 1, "one"))
    assert await told(travels, first) == {"a": "one"}
    made = await names(store)
    assert await told(travels, first) == {"a": "one"}
    assert await names(store) == made
    later = now_us()
    assert await told(travels, later) == {"a": "one"}
    assert await names(store) == made, "the same cut has the same tables"
    await say(writer, note, ("a", 2, "two"))
    assert await told(travels, later) == {"a": "one"}
    assert await told(travels, now_us()) == {"a": "two"}
    assert len(await names(store)) == 2


async def test_only_so_many_are_kept_and_none_in_use_is_dropped(store, writer, travels, note):
    moments = [await say(writer, note, ("a", n, f"said {n}")) for n in range(1, 7)]
    async with travels.at(moments[0]) as db:
        for number, moment in enumerate(moments, 1):
            assert await told(travels, moment) == {"a": f"said {number}"}
        row = await (await db.execute("SELECT said FROM notes")).fetchone()
        assert row == {"said": "said 1"}
    await scratch.sweep(store)
    assert len(await names(store)) == scratch.KEPT_MAX
    # What was dropped is made anew.
    assert await told(travels, moments[0]) == {"a": "said 1"}
    assert len(await scratch.sweep(store, 0)) >= scratch.KEPT_MAX
    assert await names(store) == []


async def test_a_later_moment_is_copied_from_an_earlier_one(store, writer, travels, note):
    commands = [(f"s{n}", 1, "x", "y") for n in range(50)]
    first = await say(writer, note, *commands)
    await told(travels, first)
    async with store.connection() as connection:
        (earlier,) = await scratch.kept(connection, "checkpoint")
        # Rows that only a copy can have: the log knows nothing of them.
        await connection.execute(f"INSERT INTO {earlier.name}.notes VALUES ('mark', 1, 'copied')")
    second = await say(writer, note, ("s0", 3, "z"))
    found = await told(travels, second)
    assert (found["s0"], found["mark"], len(found)) == ("z", "copied", 51)


async def test_too_many_events_are_refused_and_say_what_to_do(store, writer, travels, note):
    first = await say(writer, note, ("a", 1, "one"))
    second = await say(writer, note, ("a", 2, "two"))
    travels._events_max = 1
    assert await told(travels, first) == {"a": "one"}
    with pytest.raises(Failure, match=r"earlier moment.*LOOMOS_AS_OF_EVENTS_MAX") as refused:
        await told(travels, second)
    assert refused.value.code == "FAILED_PRECONDITION"


async def test_who_will_not_wait_is_told_how_far_it_is(store, writer, travels, note, monkeypatch):
    first = await say(writer, note, ("a", 1, "one"))
    monkeypatch.setattr("loom.kit.travel.WAIT_S", 0.0)
    with pytest.raises(Failure, match=r"being made: .*; ask again") as refused:
        await told(travels, first)
    assert (refused.value.code, refused.value.reason) == ("UNAVAILABLE", TRAVELLING)
    monkeypatch.undo()
    assert await told(travels, first) == {"a": "one"}


async def test_an_event_or_a_position_is_a_moment_for_who_may_see_it(store, writer, travels, note):
    first = await say(writer, note, ("a", 1, "one"))
    await say(writer, note, ("a", 2, "two"))
    own, foreign, shared = (f"{letter * 32}.1" for letter in "abc")
    index = travels._client.moments
    index[own] = loomdb_pb2.Moment(at_us=first, organisation_id="acme")
    index[foreign] = loomdb_pb2.Moment(at_us=first, organisation_id="other")
    index[shared] = loomdb_pb2.Moment(at_us=first)
    index["loomos.checkpoint:7"] = loomdb_pb2.Moment(at_us=first, project_id="acme.vision")
    for moment in (own, shared, "loomos.checkpoint:0:7"):
        assert await told(travels, moment, ANN) == {"a": "one"}
    assert await told(travels, foreign, ROOT) == {"a": "one"}
    unknown = []
    for moment in (foreign, f"{'d' * 32}.1", "loomos.checkpoint:0:8"):
        with pytest.raises(Failure) as refused:
            await told(travels, moment, ANN)
        unknown.append((refused.value.code, refused.value.message.replace(moment, "")))
    assert len(set(unknown)) == 1 and unknown[0][0] == "NOT_FOUND"


async def test_what_changed_is_shown_to_who_may_see_it(store, writer, travels, note):
    first = await say(writer, note, ("acme", 1, "one"), ("other", 1, "one"), ("gone", 1, "x"))
    second = await say(writer, note, ("acme", 2, "two"), ("other", 2, "two"), ("acme2", 1, "x"))

    async def changed(**given) -> list[tuple]:
        request = pb.ListChangesRequest(from_us=first, to_us=second, **given)
        answer = await travels.changes(request)
        assert answer.complete
        return [
            (one.table, one.key, pb.ChangeKind.Name(one.kind).removeprefix("CHANGE_KIND_"),
             [(column.name, column.before, column.after) for column in one.columns])
            for one in answer.changes
        ]  # fmt: skip

    rows = await changed(all=True, table="notes")
    assert rows == [
        ("notes", '{"stream": "acme"}', "CHANGED",
         [("version", "1", "2"), ("said", '"one"', '"two"')]),
        ("notes", '{"stream": "acme2"}', "ADDED",
         [("stream", "", '"acme2"'), ("version", "", "1"), ("said", "", '"x"')]),
        ("notes", '{"stream": "other"}', "CHANGED",
         [("version", "1", "2"), ("said", '"one"', '"two"')]),
    ]  # fmt: skip
    everything = await changed(all=True)
    assert {row[0] for row in everything} == {"notes", "lines", "owned"}
    lines = [row for row in everything if row[0] == "lines"]
    assert {row[2] for row in lines} == {"ADDED"}
    assert {name: after for name, _, after in lines[0][3]}["raw"].startswith('"3 bytes, sha')
    # A tenant sees rows that name it, and no table whose rows name nobody.
    seen = await changed(organisations=["acme"])
    assert [(row[0], row[1]) for row in seen] == [("owned", '{"stream_id": "acme"}')]
    assert await changed(projects=["other.p"], row_id="other") != []
    assert await changed() == []
    assert len(await changed(all=True, row_id="acme")) == 2


async def test_a_comparison_is_bounded_and_names_what_is_wrong(store, writer, travels, note):
    first = now_us()
    second = await say(writer, note, *((f"s{n}", 1, "x") for n in range(9)))
    request = pb.ListChangesRequest(from_us=first, to_us=second, all=True, limit=3)
    answer = await travels.changes(request)
    assert (len(answer.changes), answer.complete) == (3, False)
    request = pb.ListChangesRequest(from_us=first, to_us=second, all=True, table="hidden")
    with pytest.raises(Rejected, match="no table 'hidden'"):
        await travels.changes(request)
    with pytest.raises(Failure, match="earlier than"):
        await travels.changes(pb.ListChangesRequest(from_us=second, to_us=first, all=True))


async def test_the_tables_then_are_what_a_rebuild_makes(store, writer, travels, note):
    await say(writer, note, *((f"s{n % 5}", n // 5 + 1, f"said {n}") for n in range(40)))
    now = await say(writer, note, ("s0", 9, "last"))
    name = await travels.schema_at(now)
    async with store.connection() as connection:
        await make(connection, "checkpoint__again", TABLES)
        (cut,) = [one.cut for one in await scratch.kept(connection, "checkpoint")]
        (reach,) = cut.reaches
        place = Followed(reach.topic, reach.partition, reach.base)
        await copy_range(SERVICE, travels._settings, connection, place, START, lambda _: None)
        again = await table_digests(connection, "checkpoint__again")
        assert await table_digests(connection, name) == again
        assert (again["lines"][0], again["notes"][0]) == (41, 5)
        await connection.execute("DROP SCHEMA checkpoint__again CASCADE")
