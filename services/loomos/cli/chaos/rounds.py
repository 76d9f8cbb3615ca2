"""The rounds of `loomos chaos log`: each class of faults once, in the seed's order, then again."""

import asyncio
import random
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from loomos.cli.chaos import bits, damage, hostile, lines, processes
from loomos.cli.chaos.invariants import Checks
from loomos.cli.chaos.world import World, world
from loomos.cli.soak.load import Load
from loomos.cli.soak.story import Story
from loomos.cli.soak.world import Broken

__all__ = [
    "FAULTS",
    "NOT_HERE",
    "ON_DISKS",
    "described",
    "one_round",
    "run_rounds",
    "unknown_faults",
]

Fault = Callable[[World, Load, random.Random], Awaitable[str]]

FAULTS: dict[str, Fault] = {
    "owner killed": processes.owner_killed,
    "index killed": processes.index_killed,
    "broker killed": processes.broker_killed,
    "database backend killed": processes.backend_killed,
    "postmaster killed": processes.postmaster_killed,
    "everything killed": processes.everything_killed,
    "owner stopped": processes.owner_stopped,
    "broker hangs": processes.broker_hangs,
    "files run out": processes.files_run_out,
    "clock jumps": processes.clock_jumps,
    "line cut": lines.line_cut,
    "line one way": lines.line_one_way,
    "line flaps": lines.line_flaps,
    "line slow": lines.line_slow,
    "bits flipped": bits.bits_flipped,
    "disk full": damage.disk_full,
    "database disk full": damage.database_disk_full,
    "database older": damage.database_older,
    "log older": damage.log_older,
    "rebuilt under load": damage.rebuilt_under_load,
    "retried": hostile.retried,
    "forged records": hostile.forged_records,
    "hostile events": hostile.hostile_events,
    "many writers": hostile.many_writers,
}

ON_DISKS = ("disk full", "database disk full")
"""What needs disks of our own."""

NOT_HERE = {
    "unsynced writes lost": "needs a file system that forgets them (LazyFS)",
    "torn writes": "needs the same",
    "disk errors and stalls": "needs dm-flakey and dm-delay",
    "packets lost and reordered": "needs netem; a slow and a flapping line are had instead",
    "out of memory": "is kill -9 to whom it meets, which is had",
    "rolling restart of three brokers": "`loomos chaos cluster`",
    "archive damaged": "nothing is old enough here: tests/integration/test_archive.py",
    "keys destroyed during replay": "tests/integration/test_erasure.py",
    "witness sees a fork": "tests/integration/test_notary_log.py",
}


def described() -> list[tuple[str, str]]:
    """Each class of faults with what it does."""
    return [(name, (fault.__doc__ or "").strip()) for name, fault in FAULTS.items()]


def unknown_faults(names: Sequence[str]) -> list[str]:
    """The names that are no class of faults."""
    return [name for name in names if name not in FAULTS]


async def run_rounds(
    folder: Path, seed: int, seconds: float, story: Story, only: Sequence[str]
) -> None:
    """Faults until time is up, all invariants at the end; raises Broken."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    async with world(folder, seed, lambda line: story.tell("note", line=line)) as made:
        names = possible(made, story, only)
        checks = Checks(made, chance)
        story.tell("ready", faults=names)
        until = time.monotonic() + seconds
        schedule: list[str] = []
        while time.monotonic() < until:
            schedule = schedule or chance.sample(names, len(names))
            await one_round(made, checks, schedule.pop(), chance, story)
        async with made.loaded():
            pass
        broken = await checks.at_the_end(lambda line: story.tell("note", line=line))
        if broken:
            raise Broken("\n".join(broken))
        counts = Counter(one.kind for one in made.outcomes.values())
        story.tell(
            "checked",
            invariants="I1 to I7 hold",
            commands=len(made.outcomes),
            **counts,
            rounds=made.rounds,
            processes_started=made.starts,
            events_read_once_in_order=len(made.cursor.seen),
            deliveries_settled=len(made.durable.done),
            deliveries_taken=made.durable.taken,
            signed_trees_compared=len(checks.signed),
        )


async def one_round(
    made: World, checks: Checks, name: str, chance: random.Random, story: Story
) -> None:
    """One fault under load, and what must hold after it; raises Broken."""
    story.tell("fault", name=name)
    began = time.monotonic()
    try:
        async with made.loaded() as load:
            did = await FAULTS[name](made, load, chance)
    except* TimeoutError as error:
        raise Broken(f"I6: {name}: nothing came for too long: {where(error)}") from error
    broken = await checks.after_round()
    if broken:
        raise Broken("\n".join(f"after {name}: {one}" for one in broken))
    counts = Counter(one.kind for one in load.outcomes.values())
    seconds = round(time.monotonic() - began, 1)
    story.tell("did", name=name, did=did, seconds=seconds, **counts)
    await asyncio.sleep(0)


def where(error: BaseException) -> str:
    """The function of the harness that waited in vain."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if "chaos" in one.filename or "soak" in one.filename]
    return ", ".join(f"{Path(one.filename).stem}.{one.name}:{one.lineno}" for one in own[-3:])


def possible(made: World, story: Story, only: Sequence[str]) -> list[str]:
    """The classes that can be had here; the others are told."""
    names = list(only or FAULTS)
    if not made.disks:
        names = [name for name in names if name not in ON_DISKS]
    if (why := processes.why_no_clock()) and "clock jumps" in names:
        names.remove("clock jumps")
        story.tell("not run", name="clock jumps", why=why)
    if not only:
        for name, told in NOT_HERE.items():
            story.tell("not run", name=name, why=told)
    return names
