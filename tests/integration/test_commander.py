"""The commander on a real broker: same id same answer, refusals, fail-over, refolding."""

import asyncio

import pytest
from tests.tally import entry, running

from loom.kit.errors import Failure
from loom.log.reader import follow

pytestmark = [pytest.mark.bus]


async def events(bus, topic: str, count: int) -> list:
    found = []
    async with asyncio.timeout(20):
        async for recorded, _ in follow(bus, topic, 0):
            found.append(recorded)
            if len(found) == count:
                break
    return found


async def test_a_repeated_command_gets_the_same_answer_also_after_fail_over(bus, topic):
    async with running(bus, topic) as first:
        answer = await first.submit(entry("a", "one"))
        again = await first.submit(entry("a", "one"))
        assert again == answer
        refused = await first.submit(entry("refuse", "two"))
        assert (refused.code, refused.message) == ("FAILED_PRECONDITION", "1 are enough")
        with pytest.raises(Failure, match="was used with other content"):
            await first.submit(entry("a", "one", b"2"))
    async with running(bus, topic) as second:
        assert await second.submit(entry("a", "one")) == answer
        assert (await second.submit(entry("refuse", "two"))).message == "1 are enough"
        assert second.desk.folder.state("local").seen == ["NodeUncordoned"]
    assert [r.type for r in await events(bus, topic, 2)] == ["node.uncordoned", "command.refused"]


async def test_twins_in_flight_are_decided_once(bus, topic):
    async with running(bus, topic) as commander:
        answers = await asyncio.gather(*(commander.submit(entry("a", "one")) for _ in range(50)))
        assert all(answer == answers[0] for answer in answers)
        assert commander.desk.folder.state("local").seen == ["NodeUncordoned"]


async def test_versions_grow_without_gap_and_expected_ones_are_checked(bus, topic):
    async with running(bus, topic) as commander:
        answers = await asyncio.gather(*(commander.submit(entry("a")) for _ in range(200)))
        assert sorted(answer.version for answer in answers) == list(range(1, 201))
        stale = await commander.submit(entry("a", expected={"tally-a": 7}))
        assert stale.code == "ABORTED"
        assert "is at version 200" in stale.message


async def test_a_command_that_changes_nothing_leaves_a_trace(bus, topic):
    async with running(bus, topic) as commander:
        answer = await commander.submit(entry("same", "one"))
        assert answer.code == ""
    assert [r.type for r in await events(bus, topic, 1)] == ["command.acknowledged"]


async def test_a_foreign_tenants_resource_is_answered_like_an_unknown_one(bus, topic):
    async with running(bus, topic) as commander:
        answer = await commander.submit(entry("foreign"))
        assert (answer.code, answer.message) == ("NOT_FOUND", "no node 'foreign'")


async def test_refusals_of_one_caller_are_limited(bus, topic):
    async with running(bus, topic) as commander:
        outcomes = await asyncio.gather(
            *(commander.submit(entry("refuse")) for _ in range(300)), return_exceptions=True
        )
        limited = [o for o in outcomes if isinstance(o, Failure)]
        # 120 a minute, and a minute may end meanwhile.
        assert 60 <= len(limited) <= 180
        assert all(failure.code == "RESOURCE_EXHAUSTED" for failure in limited)


async def test_a_deposed_owner_stays_away_and_its_callers_hear_that_nothing_is_known(bus, topic):
    async with running(bus, topic, "first") as first:
        await first.submit(entry("a"))
        async with running(bus, topic, "second") as second:
            await second.submit(entry("b"))
            async with asyncio.timeout(20):
                while first.serving.is_set():
                    await asyncio.sleep(0.02)
            with pytest.raises(Failure, match="outcome unknown"):
                await first.submit(entry("c"))
            await asyncio.sleep(3)
            assert second.serving.is_set()
            assert second.epoch == first.epoch + 1
