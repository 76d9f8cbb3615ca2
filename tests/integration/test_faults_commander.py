"""What goes wrong inside the owner of a partition: every caller still hears what is known."""

import asyncio
import contextlib
import uuid
from dataclasses import dataclass, field, replace

import pytest

from loom.decider import Resource
from loom.kit.authorize import Caller, Decision
from loom.kit.commander import Commander
from loom.kit.contract import Service
from loom.kit.entries import Entry
from loom.kit.errors import Failure
from loom.log.clock import now_us
from loom.log.writer import Doubt
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as pb


@dataclass(slots=True)
class State:
    shard: str
    seen: list[str] = field(default_factory=list)


def decide(command, state, context):
    if command.node_id == "bug":
        raise KeyError("the service's own mistake")
    if command.node_id == "same":
        return []
    return [pb.NodeUncordoned(node_id=f"tally-{command.node_id}")]


class Everyone:
    view = None
    stale = False

    def may(self, principal, action, resource):
        return Decision(False, ("view_stale",)) if self.stale else Decision(True, ("test",))

    def service_caller(self, name):
        return Caller(f"service:{name}", "platform", "service", self)


@dataclass(frozen=True)
class Tally(Service):
    at: str = ""

    @property
    def topic(self):
        return self.at


@contextlib.asynccontextmanager
async def running(bus, topic: str):
    service = Tally(
        name="tally",
        contract=common_pb2,
        initial=State,
        decide=decide,
        resource=lambda command, state: Resource("project", "acme.vision"),
        evolve=lambda state, event: state.seen.append(type(event).__name__),
        project=lambda recorded: [],
        schema="",
        at=topic,
    )
    commander = Commander(service, bus, 0, Everyone(), "test")
    task = asyncio.create_task(commander.run())
    await asyncio.wait_for(commander.serving.wait(), 20)
    try:
        yield commander
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def entry(node_id: str, shard: str = "local", judge: Everyone | None = None) -> Entry:
    return Entry(
        request=pb.UncordonNodeRequest(node_id=node_id),
        caller=Caller("user:usr-acme-x", "acme", "user", judge or Everyone()),
        shard=shard,
        action="Count",
        command_id=uuid.uuid4().hex,
        digest=bytes(32),
        issued_at_us=now_us(),
        correlation_id="story",
        causation_id="",
        traceparent="",
        expected={},
        answer=asyncio.get_running_loop().create_future(),
    )


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
        assert (await commander.submit(entry("same", "somewhere"))).code == ""
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
    judge = Everyone()
    judge.stale = True
    async with running(bus, topic) as commander:
        asked = entry("a", judge=judge)
        with pytest.raises(Failure, match="behind") as refused:
            await commander.submit(asked)
        assert refused.value.code == "UNAVAILABLE"
        assert not commander.desk.folder.versions
        judge.stale = False
        again = replace(asked, answer=asyncio.get_running_loop().create_future())
        assert (await commander.submit(again)).code == ""
