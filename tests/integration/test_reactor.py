"""The reactor on a real log: each event asks once, refusals are answers, silence is asked again."""

import asyncio
import contextlib
from dataclasses import dataclass, field, replace

import pytest
from tests.appending import append, origin

from loom.decider import Command
from loom.kit import lanes
from loom.kit.contract import Service
from loom.kit.errors import Failure
from loom.kit.reactor import Reactor
from loom.log import envelope
from loom.store import Fenced
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as pb


@dataclass(frozen=True)
class Placed(Service):
    at: str = ""

    @property
    def topic(self):
        return self.at


@dataclass
class World:
    """Whom the reactor tells: notes what it is asked, answers as it is told to."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    about: list[str] = field(default_factory=list)
    """The node of each."""
    answers: list[str] = field(default_factory=list)
    """Codes of the failures to come; "" and whatever follows the last is success."""
    absent: set[str] = field(default_factory=set)
    """Nodes for which nobody answers."""
    told: asyncio.Event = field(default_factory=asyncio.Event)

    async def tell(self, request, command_id, cause) -> None:
        self.asked.append((command_id, request.reason))
        self.about.append(request.node_id)
        self.told.set()
        if request.node_id in self.absent:
            raise Failure("UNAVAILABLE", "nobody answers")
        code = self.answers.pop(0) if self.answers else ""
        if code:
            raise Failure(code, f"answered {code}")

    def of(self, node: str) -> list[tuple[str, str]]:
        """The different commands that were asked for a node, in order."""
        return list(
            dict.fromkeys(
                one for one, about in zip(self.asked, self.about, strict=True) if about == node
            )
        )

    async def asks_of(self, node: str, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.of(node)) < count:
                self.told.clear()
                await self.told.wait()

    async def waits_for(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.asked) < count:
                self.told.clear()
                await self.told.wait()


@dataclass(slots=True)
class State:
    shard: str
    count: int = 0


def evolve(state, event) -> None:
    state.count += 1


def react(record, view) -> list[Command]:
    """One command for each uncordoned node, naming how many the view had seen at that event."""
    return [Command(pb.CordonNodeRequest(node_id=record.stream, reason=str(view.count)))]


def service(topic: str) -> Service:
    return Placed(
        name="checkpoint",
        contract=common_pb2,
        initial=State,
        decide=lambda command, state, context: [],
        resource=lambda command, state: None,
        evolve=evolve,
        project=lambda recorded: [],
        schema="",
        react=react,
        at=topic,
    )


def event(version: int, node: str = "a"):
    """A command with one event of the service's own, the n-th of its stream."""
    return envelope.draft([pb.NodeUncordoned(node_id=node)], [version], origin())


@contextlib.asynccontextmanager
async def reacting(store, bus, topic, world):
    reactor = Reactor(service(topic), store, bus, 0, world.tell, None)
    task = asyncio.create_task(reactor.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def moved(store, offset: int) -> None:
    """Wait until the stored position is behind this offset."""
    async with asyncio.timeout(20):
        while True:
            async with store.connection() as connection:
                rows = await (await connection.execute("SELECT base FROM positions")).fetchall()
            if rows and int(rows[0]["base"].split(":")[1]) > offset:
                return
            await asyncio.sleep(0.05)


async def test_each_event_asks_once_with_the_view_at_that_event(store, bus, topic, writer):
    world = World()
    offsets = await append(writer, [event(1), event(2)])
    async with reacting(store, bus, topic, world):
        await moved(store, offsets[-1])
    offsets = await append(writer, [event(3)])
    async with reacting(store, bus, topic, world):
        await moved(store, offsets[-1])
    assert [reason for _, reason in world.asked] == ["1", "2", "3"]


async def test_an_event_seen_again_asks_with_the_same_id_and_view(store, bus, topic, writer):
    world = World()
    offsets = await append(writer, [event(1), event(2)])
    async with reacting(store, bus, topic, world):
        await moved(store, offsets[-1])
    async with store.connection() as connection:
        await connection.execute("DELETE FROM positions")
    async with reacting(store, bus, topic, world):
        await moved(store, offsets[-1])
    assert len(world.asked) == 4
    assert world.asked[:2] == world.asked[2:]
    assert world.asked[0][0] != world.asked[1][0]


@pytest.mark.parametrize("code", ["FAILED_PRECONDITION", "ALREADY_EXISTS", "NOT_FOUND"])
async def test_a_refusal_is_an_answer(store, bus, topic, writer, code):
    world = World(answers=[code])
    offsets = await append(writer, [event(1)])
    async with reacting(store, bus, topic, world):
        await moved(store, offsets[-1])
    assert len(world.asked) == 1


async def test_who_does_not_answer_is_asked_again_with_the_same_id_and_the_position_waits(
    store, bus, topic, writer
):
    world = World(answers=["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"])
    offsets = await append(writer, [event(1)])
    async with reacting(store, bus, topic, world):
        await world.waits_for(3)
        async with store.connection() as connection:
            rows = await (await connection.execute("SELECT base FROM positions")).fetchall()
        assert int(rows[0]["base"].split(":")[1]) <= offsets[0]
        await moved(store, offsets[-1])
    assert len(world.asked) == 4
    assert len(set(world.asked)) == 1


async def test_who_waits_for_one_that_is_absent_holds_up_his_own_stream_only(
    store, bus, topic, writer
):
    world = World(absent={"a"})
    offsets = await append(writer, [event(1, "b"), event(1, "a"), event(2, "b"), event(2, "a")])
    async with reacting(store, bus, topic, world):
        offsets += await append(writer, [event(3, "b")])
        await moved(store, offsets[0])
        await world.asks_of("b", 3)
        assert len(world.of("a")) == 1
        async with store.connection() as connection:
            rows = await (await connection.execute("SELECT base FROM positions")).fetchall()
        assert int(rows[0]["base"].split(":")[1]) == offsets[1]
    # What was done behind the position is asked again, under the same ids.
    async with reacting(store, bus, topic, world):
        await world.asks_of("b", 3)
        world.absent.clear()
        await moved(store, offsets[-1])
    assert [reason for _, reason in world.of("b")] == ["1", "3", "5"]
    assert [reason for _, reason in world.of("a")] == ["2", "4"]


async def test_a_full_house_reads_no_further(store, bus, topic, writer, monkeypatch):
    monkeypatch.setattr(lanes, "UNDONE_MAX", 2)
    world = World(absent={"a", "b"})
    offsets = await append(writer, [event(1, node) for node in "abcd"])
    async with reacting(store, bus, topic, world):
        await world.asks_of("b", 1)
        await asyncio.sleep(0.5)
        assert not world.of("c")
        world.absent.clear()
        await moved(store, offsets[-1])
    assert [len(world.of(node)) for node in "abcd"] == [1, 1, 1, 1]


async def test_an_effect_that_breaks_down_ends_the_reactor(store, bus, topic, writer):
    async def effect(cause, shell):
        raise ValueError("no such effect")

    made = replace(service(topic), effect=effect)
    await append(writer, [event(1)])
    reactor = Reactor(made, store, bus, 0, World().tell, None)
    with pytest.raises(ValueError, match="no such effect"):
        await asyncio.wait_for(reactor.run(), 20)


async def test_an_earlier_reactor_that_wakes_up_stops(store, bus, topic, writer):
    world = World()
    async with reacting(store, bus, topic, world) as first:
        offsets = await append(writer, [event(1)])
        await moved(store, offsets[-1])
        async with reacting(store, bus, topic, World()) as second:
            await asyncio.sleep(0.5)
            offsets = await append(writer, [event(2)])
            await moved(store, offsets[-1])
            with pytest.raises(Fenced, match=topic):
                await asyncio.wait_for(first, 20)
            assert not second.done()
