"""Searches and analyses on a real index."""

import base64
import json

import pytest
from tests.searching import DAY, JAN, NASTY, SCHEMA, appended, caller, put

from loom.decider import Code, Rejected
from loom.kit.caller import Scope
from loom.store import Store
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.filter import condition_of, document, predicate
from loomos.loomdb.query import analytics, answers, get_story, list_events, search
from loomos.loomdb.query.search import search_events

CONDITIONS = (
    "payload.text = x", 'payload.text = "a\\u0000b"', 'payload.text contains "\\u0000"',
    "payload.text contains '", "payload.text contains $.x ? (@ == 1)", "payload.text prefix it's",
    "payload.text prefix \U0001f600", "payload.text >= \U0001f600", "payload.text < b",
    'payload.text = ""', "payload.text exists", "payload.none exists", "payload.missing exists",
    "payload.n = 7", 'payload.n = "7"', "payload.n = 7.5", "payload.n >= 7", "payload.n < 1",
    "payload.n in 7,7.5", "payload.n != 7", "payload.n = 0", "payload.flag = true",
    "payload.flag != true", "payload.list contains x", "payload.list contains 7",
    "payload.list contains true", "payload.list = x", "payload.deep.n > 5", "payload.deep.n = 1",
    "payload.a-b.c = 1", "payload.a-b.c = 2", "payload.a-b.c.d = 3", "payload.ids contains job-1",
    "payload.big = 9007199254740992", "payload.big >= 9007199254740993", "payload.big > 1e300",
    "payload.big < 1e30", "payload.huge = 1e308", "payload.huge >= 1e308", "payload.tiny > 0",
    "tags contains healthcare", "tags = nlp", "priority >= high", "priority < normal",
    "priority = normal", "priority in low,critical", "classification = restricted",
    "context.user_id = user_1", "context.source_ip prefix 10.", "context.cost_center exists",
    "context.compliance_level = SOC2_TYPE2", "security.data_classification = phi",
    "type prefix model.training.", "type != model.training.start", "stream contains run",
    "version >= 2", "version = 1", "at_us >= 1704153600000000", "actor > user:b",
    "correlation_id in story-0,story-1", "event_id = no'); DROP TABLE audit_events; --",
)  # fmt: skip


@pytest.fixture
async def store(fresh_database, settings):
    store = Store(settings("loomdb").postgres, "loomdb")
    await store.open()
    await store.prepare(SCHEMA)
    yield store
    await store.close()


@pytest.fixture
async def db(store):
    async with store.connection() as connection:
        await put(connection, *(appended(at, payload) for at, payload in enumerate(NASTY)))
        await put(connection, appended(100, {"n": 7}, "other"))
        yield connection


def ids(page) -> list[str]:
    return [event.event_id for event in page.events]


async def found(db, who=None, **more) -> pb.EventSearchPage:
    request = pb.SearchEventsRequest(**{"organisation_id": "acme", **more})
    return await search_events(request, who or caller(), db)


async def test_a_search_finds_what_the_filter_means(db):
    rows = await (
        await db.execute("SELECT *, search ->> 'classification' AS c FROM audit_events")
    ).fetchall()
    told = {row["event_id"]: document(row, row["payload"], True, row["c"]) for row in rows}
    for text in CONDITIONS:
        for inverted in (False, True):
            tree = pb.Filter(conditions=[condition_of(text)])
            tree = pb.Filter(none_of=[tree]) if inverted else tree
            fits = predicate(tree)
            wanted = [f"acme-e{at}.1" for at in range(len(NASTY)) if fits(told[f"acme-e{at}.1"])]
            page = await found(db, filter=tree)
            assert (text, inverted, ids(page)) == (text, inverted, wanted)
            assert page.complete


async def test_the_seeds_query(db):
    await put(
        db,
        appended(7, {"hardware_config": {"gpu_count": 8}}, type="model.training.complete"),
        appended(13, {"hardware_config": {"gpu_count": 2}}, type="model.training.complete"),
        appended(19, {"hardware_config": {"gpu_count": 8}}, type="model.inference.request"),
    )
    where = [
        "tags contains healthcare",
        "data.hardware_config.gpu_count >= 4",
        "context.compliance_level = SOC2_TYPE2",
    ]
    kinds = ["model.training.start", "model.training.complete"]
    assert ids(await found(db, where=where, types=kinds)) == ["acme-e7.1"]
    assert ids(await found(db, where=where)) == ["acme-e7.1", "acme-e19.1"]
    assert ids(await found(db, where=where, to_us=JAN + 10 * DAY)) == ["acme-e7.1"]
    assert ids(await found(db, where=where, types=["model.inf*"])) == ["acme-e19.1"]


@pytest.mark.parametrize("order", [0, pb.EVENT_ORDER_TYPE, pb.EVENT_ORDER_ACTOR])
@pytest.mark.parametrize("descending", [False, True])
async def test_pages_join_while_events_arrive(db, order, descending):
    whole = ids(await found(db, order=order, descending=descending))
    assert len(whole) == len(NASTY)
    pages, cursor, arrived = [], "", 50
    while True:
        page = await found(
            db, order=order, descending=descending, limit=2, cursor=cursor, where=["version >= 0"]
        )
        pages += ids(page)
        cursor = page.next_cursor
        if not cursor:
            break
        await put(db, appended(arrived, {}, at_us=JAN + 400 * DAY))
        arrived += 2
        assert arrived < 60 or not descending
        if arrived > 56:
            break
    told = [one for one in pages if one in whole]
    assert told == whole[: len(told)]
    assert len(pages) == len(set(pages))
    assert len(told) >= len(whole) - 2


async def test_what_costs_too_much_ends_and_says_how_to_go_on(db, monkeypatch):
    for name in ("ROWS_FIRST", "ROWS_MAX"):
        monkeypatch.setattr(search, name, 3)
    told, cursor, stops = [], "", 0
    while True:
        page = await found(db, where=["payload.n >= 7"], limit=2, cursor=cursor)
        told += ids(page)
        stops += not page.complete
        assert page.complete or "narrow" in page.stopped or "time range" in page.stopped
        cursor = page.next_cursor
        if not cursor:
            break
    assert told == ["acme-e1.1", "acme-e2.1", "acme-e3.1"]
    assert stops


async def test_nobody_finds_what_is_not_theirs(db):
    assert ids(await found(db, organisation_id="other")) == []
    assert ids(await found(db, caller("other"), organisation_id="other")) == ["other-e100.1"]
    nobody = caller(scope=Scope(False, [], []))
    assert ids(await found(db, nobody)) == []
    all_of_it = await found(db, caller(scope=Scope(True, [], [])), organisation_id="platform")
    assert len(all_of_it.events) == len(NASTY) + 1


def cursor_saying(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "x", "é", "====", "W10", cursor_saying([]), cursor_saying({"a": 1}),
        cursor_saying(["at_us", False, "1", "t", 0, 0]), cursor_saying(["at_us", False, 1]),
        cursor_saying(["at_us", True, 1, "t", 0, 0]),
        cursor_saying(["at_us", False, 1, "\0", 0, 0]),
        cursor_saying(["at_us", False, 2**70, "t", 0, 0]),
        cursor_saying(["at_us", False, True, "t", 0, 0]),
        cursor_saying(["type", False, "x'; --", 1, "t", 0, 0]), "[" * 500,
    ],
)  # fmt: skip
async def test_a_cursor_of_ones_own_making_is_refused(db, cursor):
    with pytest.raises(Rejected) as refused:
        await found(db, cursor=cursor)
    assert (refused.value.code, refused.value.field) == (Code.INVALID_ARGUMENT, "cursor")


@pytest.mark.parametrize(
    "where",
    [
        "nonsense", "payload = 1", "payload.x ~ .*", "x.y = 1", "payload..x = 1",
        "payload.x; DROP TABLE audit_events = 1", 'payload."x" = 1', "payload.x in []",
        "payload.x = " + "9" * 1000, "payload." + ".".join("a" * 20) + " = 1", "payload.x = null",
        "type.x = 1", "priority > urgent", 'payload.x = "\\ud800"', "payload.x = NaN",
    ],
)  # fmt: skip
async def test_a_malformed_condition_is_refused_with_its_field(db, where):
    with pytest.raises(Rejected) as refused:
        await found(db, where=[where])
    assert refused.value.code == Code.INVALID_ARGUMENT
    assert refused.value.message


async def test_figures_by_group_and_month(db):
    records = []
    for month, cost in enumerate((100, 200, 300, 400)):
        begin = JAN + month * 31 * DAY
        for run in range(2):
            at = 200 + month * 10 + run * 2
            records.append(appended(at, {"model": "m"}, type="job.begun", at_us=begin + run * 1000))
            records.append(
                appended(
                    at + 2 * 100,
                    {"model": "m", "status": "ok" if run else "bad", "cost": cost},
                    type="job.ended",
                    at_us=begin + 10_000 + run * 3000,
                )
            )
    # A span is met in the log's order of time.
    await put(db, *sorted(records, key=lambda one: one.at_us))
    request = pb.AnalyzeEventsRequest(
        organisation_id="acme", types=["job."], group_by=["data.model"], bucket="1mo",
        outcome="payload.status", successes=["ok"], failures=["bad"], begins="job.begun",
        ends=["job.ended"], cost="payload.cost", projection_months=1, to_us=JAN + 121 * DAY,
    )  # fmt: skip
    answer = await analytics.analyze_events(request, caller(), db)
    assert [(one.count, one.success_permille, one.cost) for one in answer.groups] == [
        (4, 500, 200), (4, 500, 400), (4, 500, 600), (4, 500, 800),
    ]  # fmt: skip
    assert answer.groups[0].keys == ["m"]
    assert answer.groups[0].durations == 1
    assert answer.groups[0].duration_p50_us == 9000
    # The fourth month is not over at to_us.
    assert answer.projections[0].months >= 3
    assert answer.projections[0].cost == (800 if answer.projections[0].months == 3 else 1000)
    assert answer.complete


async def test_a_question_without_an_answer_is_refused(db):
    for more in (
        {"outcome": "type"}, {"begins": "a.b"}, {"projection_months": 2}, {"group_by": ["payload"]},
        {"cost": "nowhere.x", "projection_months": 1}, {"group_by": ["payload.x'; --"]},
    ):  # fmt: skip
        request = pb.AnalyzeEventsRequest(organisation_id="acme", **more)
        with pytest.raises(Rejected) as refused:
            await analytics.analyze_events(request, caller(), db)
        assert refused.value.code == Code.INVALID_ARGUMENT


async def paged(ask) -> list[list[str]]:
    """The ids of all pages."""
    pages, cursor = [], ""
    while True:
        page = await ask(cursor)
        assert page.ByteSize() <= answers.ANSWER_BYTES_MAX + 100_000
        pages.append(ids(page))
        cursor = page.next_cursor
        if not cursor:
            return pages


@pytest.mark.parametrize("limit", [0, 200])
@pytest.mark.parametrize("where", [[], ["payload.kind = big"], ["payload.text contains x"]])
async def test_a_page_ends_before_it_is_larger_than_a_message(db, limit, where):
    big = {"kind": "big", "text": "x" * 250_000}
    await put(db, *(appended(500 + at, big, type="data.big") for at in range(45)))
    wanted = [f"acme-e{500 + at}.1" for at in range(45)]
    for descending in (False, True):

        async def searched(cursor, descending=descending):
            more = {"limit": limit, "cursor": cursor, "descending": descending, "where": where}
            return await found(db, types=["data.big"], **more)

        pages = await paged(searched)
        assert 4 <= len(pages) <= 5
        told = [one for page in pages for one in page]
        assert told == (wanted[::-1] if descending else wanted)

    async def listed(cursor):
        more = {"type_prefix": "data.big", "limit": limit, "cursor": cursor}
        request = pb.ListEventsRequest(organisation_id="acme", **more)
        return await list_events(request, caller(), db)

    assert [one for page in await paged(listed) for one in page] == wanted
    request = pb.GetStoryRequest(organisation_id="acme", correlation_id="story-0")
    story = await get_story(request, caller(), db)
    assert not story.complete
    assert story.ByteSize() <= answers.ANSWER_BYTES_MAX + 100_000


async def test_an_analysis_that_ends_at_a_bound_says_where(db, monkeypatch):
    request = pb.AnalyzeEventsRequest(organisation_id="acme", group_by=["type"])
    whole = await analytics.analyze_events(request, caller(), db)
    assert (whole.complete, whole.stopped, whole.events) == (True, "", len(NASTY))
    monkeypatch.setattr(analytics, "EVENTS_MAX", len(NASTY))
    assert (await analytics.analyze_events(request, caller(), db)).complete
    monkeypatch.setattr(analytics, "EVENTS_MAX", 4)
    oldest = await analytics.analyze_events(request, caller(), db)
    assert (oldest.complete, oldest.events) == (False, 4)
    assert "oldest of 4 events" in oldest.stopped
    # What does not fit is looked at, too.
    rare = pb.AnalyzeEventsRequest(organisation_id="acme", where=["payload.n = 7.5"])
    monkeypatch.setattr(analytics, "EVENTS_MAX", 3)
    assert not (await analytics.analyze_events(request, caller(), db)).complete
    assert (await analytics.analyze_events(rare, caller(), db)).complete
    ranged = pb.AnalyzeEventsRequest(organisation_id="acme", where=["payload.n > 7.2"])
    none = await analytics.analyze_events(ranged, caller(), db)
    assert (none.complete, none.events) == (False, 0)
    monkeypatch.setattr(analytics, "EVENTS_MAX", 200_000)
    monkeypatch.setattr(analytics, "LOOK_S", 0.0)
    monkeypatch.setattr(analytics, "CHUNK", 2)
    late = await analytics.analyze_events(request, caller(), db)
    assert (late.complete, late.events) == (False, 2)
    assert "the oldest 2 events in 0 s" in late.stopped
