"""`loomos soak`: seeded load and seeded faults against real processes, and what must hold after.

1. Everything runs in a fresh folder and on loopback, and ends with the command; the folder goes
   where every promise held, and stays, named, where one did not.
2. The seed chooses faults and commands; it is printed, so that a run can be repeated.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loomos.cli.show import Json
from loomos.cli.soak.ending import run_apart
from loomos.cli.soak.story import Story

if TYPE_CHECKING:
    from loomos.cli.soak.load import Load
    from loomos.cli.soak.world import World

__all__ = ["add_to"]

HANG_SECONDS = 15
ANSWERS = 30
RECOVER_SECONDS = 90.0


def add_to(app: typer.Typer) -> None:
    """Add this part's command."""
    app.command()(soak)


def soak(
    seed: Annotated[int, typer.Option(min=0, help="Chooses faults and commands; else drawn.")] = 0,
    minutes: Annotated[int, typer.Option(min=1, max=24 * 60, help="How long.")] = 10,
    as_json: Json = False,
) -> None:
    """Break the platform again and again and check what it promises. Example: loomos soak"""
    story = Story(as_json)
    run_apart("soak", partial(rounds, story=story), seed, minutes, story)


async def rounds(folder: Path, seed: int, seconds: float, story: Story) -> None:
    """One fault after another until time is up, each followed by the whole check."""
    from loomos.cli.soak.world import World
    from loomos.embedded.home import Home
    from loomos.embedded.services import ALL
    from loomos.embedded.stores import Stores

    stores = Stores(Home.open(folder), {})
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    try:
        stores.launch(lambda line: story.tell("note", line=line))
        await asyncio.to_thread(stores.wait)
        # Making users and topics runs a loop of its own.
        await asyncio.to_thread(stores.provision, ALL)
        world = World(stores, seed)
        try:
            world.start()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                name = chance.choice(sorted(FAULTS))
                story.tell("fault", name=name)
                async with world.loaded() as load:
                    await FAULTS[name](world, load)
                    await load.go_on(ANSWERS, RECOVER_SECONDS)
                counts = Counter(one.kind for one in world.outcomes.values())
                story.tell("held so far", round=world.rounds, name=name, **counts)
        finally:
            world.stop()
    finally:
        stores.stop()


async def instances_killed(world: "World", load: "Load") -> None:
    """kill -9 of each instance in turn."""
    for one in world.instances:
        one.kill()
        await load.go_on(ANSWERS, RECOVER_SECONDS)


async def everything_killed(world: "World", load: "Load") -> None:
    """kill -9 of all processes at once."""
    for one in world.instances:
        one.kill()
    await broker_killed(world, load)
    await database_killed(world, load)


async def instances_stopped(world: "World", load: "Load") -> None:
    """SIGSTOP of each instance until another has claimed, then SIGCONT."""
    for one in world.instances:
        one.signal(signal.SIGSTOP)
        try:
            await load.go_on(ANSWERS, RECOVER_SECONDS)
        finally:
            one.signal(signal.SIGCONT)


async def broker_killed(world: "World", load: "Load") -> None:
    """kill -9 of Kafka."""
    process = world.stores.process("kafka")
    assert process is not None
    process.kill()


async def broker_hangs(world: "World", load: "Load") -> None:
    """SIGSTOP of Kafka for a while."""
    process = world.stores.process("kafka")
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(HANG_SECONDS)
    finally:
        process.send_signal(signal.SIGCONT)


async def database_killed(world: "World", load: "Load") -> None:
    """kill -9 of Postgres, in mid-projection."""
    process = world.stores.process("postgres")
    assert process is not None
    process.kill()


FAULTS: dict[str, Callable[["World", "Load"], Awaitable[None]]] = {
    "each instance killed": instances_killed,
    "everything killed": everything_killed,
    "each instance stopped for a while": instances_stopped,
    "broker killed": broker_killed,
    "broker hangs": broker_hangs,
    "database killed": database_killed,
}
