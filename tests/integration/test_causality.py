"""Walks of causes on a real index: both ways, bounded, and blind to other tenants."""

import types

import pytest

from loom.decider import Position, Recorded, Rejected, partition_shard
from loom.kit.caller import Caller, Scope
from loom.store import Store
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.main import SERVICE
from loomos.loomdb.project import project
from loomos.loomdb.query import causality, get_event, get_story, walk_causes

ROWS = (
    # id, cause, organisation
    ("submitted", "", "acme"),
    ("placed", "submitted", "acme"),
    ("round", "placed", ""),
    ("granted", "round", "acme"),
    ("foreign", "round", "other"),
    ("hidden", "foreign", "acme"),
    ("started", "granted", "acme"),
    ("released", "granted", "acme"),
    ("itself", "itself", "acme"),
    ("ring1", "ring2", "acme"),
    ("ring2", "ring1", "acme"),
    ("platform", "", ""),
)


def caller(everything: bool = False, organisation: str = "acme") -> Caller:
    scope = Scope(True, [], []) if everything else Scope(False, [organisation], [])
    judge = types.SimpleNamespace(scope=lambda principal, action: scope)
    return Caller("user:somebody", organisation, "user", judge)


def recorded(offset: int, event_id: str, cause: str, organisation: str) -> Recorded:
    """An event of an organisation, or of the platform itself."""
    return Recorded(
        event=pb.AuditTrailRead(organisation_id=organisation),
        type="audit.trail.read",
        id=event_id,
        stream=f"stream-{offset}",
        version=1,
        shard=organisation or partition_shard(0),
        position=Position("loomos.loomdb", 0, offset),
        at_us=offset,
        actor="user:a",
        command_id="c",
        correlation_id="story",
        causation_id=cause,
    )


@pytest.fixture
async def db(fresh_database, settings):
    store = Store(settings("loomdb").postgres, "loomdb")
    await store.open()
    await store.prepare(SERVICE.schema)
    async with store.connection() as connection:
        for offset, row in enumerate(ROWS):
            for statement in project(recorded(offset, *row)):
                await connection.execute(statement.sql, statement.parameters)
        yield connection
    await store.close()


def asked(event_id: str, effects: bool = False, organisation: str = "acme", **more):
    way = pb.CAUSAL_DIRECTION_EFFECTS if effects else pb.CAUSAL_DIRECTION_CAUSES
    return pb.WalkCausesRequest(
        organisation_id=organisation, event_id=event_id, direction=way, **more
    )


def shape(walk: pb.CausalWalk) -> list[tuple[int, str]]:
    return [(entry.depth, entry.event.event_id) for entry in walk.entries]


async def test_causes_lead_back_to_the_beginning(db):
    walk = await walk_causes(asked("started"), caller(), db)
    assert shape(walk) == [
        (0, "started"), (1, "granted"), (2, "round"), (3, "placed"), (4, "submitted"),
    ]  # fmt: skip
    assert walk.complete


async def test_effects_are_a_tree_that_ends_at_other_tenants(db):
    walk = await walk_causes(asked("submitted", effects=True), caller(), db)
    assert shape(walk) == [
        (0, "submitted"), (1, "placed"), (2, "round"), (3, "granted"), (4, "started"),
        (4, "released"),
    ]  # fmt: skip
    everything = asked("submitted", effects=True, organisation="platform")
    seen = dict(reversed(one) for one in shape(await walk_causes(everything, caller(True), db)))
    assert (seen["foreign"], seen["hidden"]) == (3, 4)


async def test_circles_end(db):
    for effects in (False, True):
        assert shape(await walk_causes(asked("itself", effects), caller(), db)) == [(0, "itself")]
        ring = await walk_causes(asked("ring1", effects), caller(), db)
        assert sorted(name for _, name in shape(ring)) == ["ring1", "ring2"]
        assert ring.complete


async def test_bounds_are_said(db):
    short = await walk_causes(asked("started", depth_max=1), caller(), db)
    assert (shape(short), short.complete) == ([(0, "started"), (1, "granted")], False)
    few = await walk_causes(asked("granted", effects=True, limit=2), caller(), db)
    assert (len(few.entries), few.complete) == (2, False)
    exact = await walk_causes(asked("granted", effects=True, limit=3), caller(), db)
    assert (len(exact.entries), exact.complete) == (3, True)


@pytest.mark.parametrize("event_id", ["foreign", "no.such", "platform"])
async def test_what_is_not_theirs_is_unknown(db, event_id):
    with pytest.raises(Rejected, match="no event") as refused:
        await walk_causes(asked(event_id, effects=True), caller(), db)
    assert refused.value.code == "NOT_FOUND"
    assert shape(await walk_causes(asked("hidden"), caller(), db)) == [(0, "hidden")]
    with pytest.raises(Rejected):
        # Asking in another's name shows nothing of one's own either.
        await walk_causes(asked("started", organisation="other"), caller(), db)


def told(offset: int, own_id: str, cause: str, organisation: str = "acme") -> Recorded:
    """A user's event, under his own id."""
    whole = recorded(offset, f"{offset:032x}.1", "", organisation)
    event = data_pb2.EventAppended(
        stream_id=f"{organisation}/run-1",
        organisation_id=organisation,
        event_id=own_id,
        event_type="model.training.start",
        payload=b"{}",
        append_id=f"a{offset}",
        causation_id=cause,
        correlation_id="told",
    )
    place = Position("loomos.data", 0, offset)
    return whole._replace(event=event, position=place, shard=organisation, type="event.appended")


async def test_users_events_are_walked_by_their_own_ids(db):
    first, second, third = f"{50:032x}.1", f"{51:032x}.1", f"{52:032x}.1"
    for one in (
        told(50, "Start_1", "submitted"),
        told(51, "end:1", "Start_1"),
        told(52, "after", second),
        told(53, "Start_1", "", "other"),
        told(54, "theirs", "Start_1", "other"),
    ):
        for statement in project(one):
            await db.execute(statement.sql, statement.parameters)
    ways = [(0, third), (1, second), (2, first), (3, "submitted")]
    assert shape(await walk_causes(asked("after"), caller(), db)) == ways
    assert shape(await walk_causes(asked(third), caller(), db)) == ways
    down = [(0, first), (1, second), (2, third)]
    assert shape(await walk_causes(asked("Start_1", effects=True), caller(), db)) == down
    one = pb.GetEventRequest(organisation_id="acme", event_id="end:1")
    assert (await get_event(one, caller(), db)).event_id == second
    story = pb.GetStoryRequest(organisation_id="acme", correlation_id="told")
    assert shape(await get_story(story, caller(), db)) == down
    with pytest.raises(Rejected, match="no event 'theirs'"):
        await walk_causes(asked("theirs"), caller(), db)


async def test_a_walk_that_ends_at_a_bound_says_so(db, monkeypatch):
    monkeypatch.setattr(causality, "WALK_S", 0.0)
    late = await walk_causes(asked("submitted", effects=True), caller(), db)
    assert (shape(late), late.complete) == ([(0, "submitted")], False)
    monkeypatch.undo()
    monkeypatch.setattr(causality, "ANSWER_BYTES_MAX", 1)
    large = await walk_causes(asked("started"), caller(), db)
    assert (shape(large), large.complete) == ([(0, "started")], False)
