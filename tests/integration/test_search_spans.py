"""A search that goes span by span finds what one statement over everything would find."""

import random

import pytest
from google.protobuf.json_format import MessageToDict
from tests.searching import JAN, SCHEMA, appended, caller, put

from loom.store import Store
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.query.search import search_events

HOUR = 3_600_000_000
COUNT = 400


def told(number: int) -> dict[str, object]:
    """Something frequent, something in between, and something rare."""
    return {"n": number, "half": number % 2, "tenth": number % 10, "rare": number % 150}


@pytest.fixture
async def placed(fresh_database, settings):
    """Events in bursts and pauses, some at the same time, of two organisations."""
    draw = random.Random(3)
    store = Store(settings("loomdb").postgres, "loomdb")
    await store.open()
    await store.prepare(SCHEMA)
    at_us, times = JAN, []
    for _ in range(COUNT):
        at_us += draw.choice((0, 0, 1, 1_000_000, HOUR, 900 * HOUR))
        times.append(at_us)
    async with store.connection() as db:
        for number, at in enumerate(times):
            owner = "acme" if number % 3 else "other"
            await put(db, appended(number, told(number), owner, at_us=at))
        yield db, times
    await store.close()


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [2, 7])
@pytest.mark.parametrize(("name", "value"), [("half", 1), ("tenth", 4), ("rare", 7), ("rare", 999)])
async def test_pages_of_spans_hold_all_that_fits_in_order(placed, descending, limit, name, value):
    db, times = placed
    fitting = [n for n in range(COUNT) if n % 3 and told(n)[name] == value]
    for bounds in ({}, {"from_us": times[50], "to_us": times[300]}):
        low, high = bounds.get("from_us", 0), bounds.get("to_us", times[-1] + 1)
        wanted = [n for n in fitting if low <= times[n] < high]
        found, cursor = [], ""
        while True:
            request = pb.SearchEventsRequest(
                organisation_id="acme",
                where=[f"payload.{name} = {value}"],
                descending=descending,
                limit=limit,
                cursor=cursor,
                **bounds,
            )
            page = await search_events(request, caller(), db)
            assert page.complete
            assert len(page.events) <= limit
            found += [int(MessageToDict(e.payload)["payload"]["n"]) for e in page.events]
            cursor = page.next_cursor
            if not cursor:
                break
        assert found == (wanted[::-1] if descending else wanted)
