"""What goes wrong inside the owner of a partition: every caller still hears what is known."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from tests.tally import Judge, entry, running

from loom.kit.errors import Failure
from loom.log.writer import Doubt


async def test_commands_of_a_failed_claim_hear_that_nothing_is_known(bus, topic):
    async with running(bus, topic) as commander:
        await commander.submit(entry("a"))
        # As when a batch could not be sent: the claim is in doubt before the reader has noticed.
        commander.writer._failure = Doubt("the broker said no")
        with pytest.raises(Failure, match="outcome unknown"):
            await asyncio.wait_for(commander.submit(entry("b")), 5)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(Failure):
                    assert (await commander.submit(entry("c"))).code == ""
                    break
                await asyncio.sleep(0.05)


async def test_a_mistake_in_a_decision_is_its_own_callers_alone(bus, topic):
    async with running(bus, topic) as commander:
        first, broken, last = await asyncio.gather(
            *(commander.submit(entry(name)) for name in ("a", "bug", "b")), return_exceptions=True
        )
        assert isinstance(broken, Failure)
        assert (broken.code, broken.reason) == ("INTERNAL", "INTERNAL")
        assert "KeyError" not in broken.message
        assert (first.code, last.code) == ("", "")
        assert commander.epoch == 1


async def test_what_changes_nothing_founds_no_shard(bus, topic):
    async with running(bus, topic) as commander:
        assert (await commander.submit(entry("same", shard="somewhere"))).code == ""
        live = set(commander.desk.folder.states)
    async with running(bus, topic) as commander:
        assert set(commander.desk.folder.states) == live == set()


async def test_an_owner_that_is_told_to_end_while_it_is_woken_ends(bus, topic):
    async with running(bus, topic) as commander:
        task = next(one for one in asyncio.all_tasks() if one.get_coro().__name__ == "run")

        async def nudge() -> None:
            while True:
                commander._wake.set()
                await asyncio.sleep(0)

        nudging = asyncio.create_task(nudge())
        await asyncio.sleep(0.1)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=10)
        nudging.cancel()
        assert done, "it decides on, and nobody confirms"
        assert not commander.serving.is_set()


async def test_a_view_that_is_behind_is_no_verdict(bus, topic):
    judge = Judge()
    judge.behind = True
    async with running(bus, topic) as commander:
        asked = entry("a", judge=judge)
        with pytest.raises(Failure, match="behind") as refused:
            await commander.submit(asked)
        assert refused.value.code == "UNAVAILABLE"
        assert not commander.desk.folder.versions
        judge.behind = False
        again = replace(asked, answer=asyncio.get_running_loop().create_future())
        assert (await commander.submit(again)).code == ""
