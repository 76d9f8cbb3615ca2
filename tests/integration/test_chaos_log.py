"""Each class of faults of `loomos chaos log` once, against one world of real processes.

The quick ones are in every run; those that wait for leases, restarts or hung brokers are slow.
"""

import random

import pytest
import pytest_asyncio

from loomos.cli.chaos import hostile, processes
from loomos.cli.chaos.invariants import Checks
from loomos.cli.chaos.rounds import FAULTS, ON_DISKS, one_round
from loomos.cli.chaos.told import broken_causes, broken_ids
from loomos.cli.chaos.world import world
from loomos.cli.soak.story import Story

SEED = 20261122
QUICK = ("hostile events", "forged records", "many writers", "bits flipped", "owner killed")
RETRIES = 600

pytestmark = [
    pytest.mark.bus,
    pytest.mark.db,
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def broken_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chaos")
    async with world(folder, SEED, print) as made:
        yield made, Checks(made, random.Random(SEED))


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAULTS],
)
async def test_a_fault_breaks_no_promise(broken_world, name, monkeypatch):
    made, checks = broken_world
    if name in ON_DISKS and not made.disks:
        pytest.skip("no loop device here: the command names the class as not run")
    if name == "clock jumps" and (why := processes.why_no_clock()):
        pytest.skip(why)
    if name == "retried":
        monkeypatch.setitem(
            FAULTS, name, lambda made, load, chance: hostile.retried(made, load, chance, RETRIES)
        )
    await one_round(made, checks, name, random.Random(name), Story(as_json=True))


async def test_all_seven_hold_at_the_end(broken_world):
    made, checks = broken_world
    async with made.loaded():
        pass
    assert not await checks.at_the_end(print)
    assert made.cursor.seen
    assert made.durable.done


async def test_a_promise_that_does_not_hold_is_named(broken_world):
    made, checks = broken_world
    _, events = await checks.partition()
    lost = next(
        one for one in events if one.type == "event.appended" and not one.event.causation_id
    )
    rest = [one for one in events if one.id != lost.id]
    named = broken_ids(made.requests, made.outcomes, rest)
    assert any(lost.event.event_id in one for one in named)
    assert any("stands 2 times" in one for one in broken_ids({}, {}, [lost, lost]))
    orphan = lost._replace(causation_id="nobody")
    assert broken_causes([orphan]) == [f"I7: {lost.id} names the cause nobody, which is not there"]
