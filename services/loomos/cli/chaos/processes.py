"""Faults of processes: killed, stopped, starved of files, on a clock that jumps."""

import asyncio
import ctypes.util
import os
import random
import resource
import signal
from pathlib import Path

import psutil

from loomos.cli.chaos.world import RECOVER_SECONDS, World
from loomos.cli.soak.load import Load

__all__ = [
    "backend_killed",
    "broker_hangs",
    "broker_killed",
    "clock_jumps",
    "everything_killed",
    "files_run_out",
    "index_killed",
    "owner_killed",
    "owner_stopped",
    "postmaster_killed",
    "why_no_clock",
]

ANSWERS = 15
KILLS = 3
HANG_SECONDS = (10.0, 30.0)
STARVED_SECONDS = 6.0
JUMP_SECONDS = 200
"""Below what a command id may be ahead of the platform's clock, and the life of a certificate."""
JUMPS = 6


async def owner_killed(made: World, load: Load, chance: random.Random) -> str:
    """kill -9 of data's owner, at random points of its work."""
    for _ in range(KILLS):
        await asyncio.sleep(chance.random())
        (await made.owner("data")).kill()
        await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"{KILLS} owners killed"


async def index_killed(made: World, load: Load, chance: random.Random) -> str:
    """kill -9 of loomdb while it projects, signs and serves streams."""
    for _ in range(KILLS):
        await asyncio.sleep(2 * chance.random())
        made.of("loomdb")[0].kill()
        await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"loomdb killed {KILLS} times"


async def backend_killed(made: World, load: Load, chance: random.Random) -> str:
    """kill -9 of one Postgres backend; the postmaster then ends all the others."""
    process = made.stores.database.process
    assert process is not None
    found = psutil.Process(process.pid).children(recursive=True)
    backends = [one for one in found if "loomos_" in " ".join(one.cmdline())]
    if not backends:
        return "no backend was there"
    one = chance.choice(sorted(backends, key=lambda backend: backend.pid))
    name = " ".join(one.cmdline())[:60]
    one.kill()
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"killed {name!r}"


async def postmaster_killed(made: World, load: Load, chance: random.Random) -> str:
    """kill -9 of the postmaster."""
    process = made.stores.database.process
    assert process is not None
    process.kill()
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return "postmaster killed"


async def broker_killed(made: World, load: Load, chance: random.Random) -> str:
    """kill -9 of the broker, again before it has rested."""
    for _ in range(2):
        process = made.stores.broker.process
        assert process is not None
        process.kill()
        await load.go_on(ANSWERS, RECOVER_SECONDS)
        await asyncio.sleep(2 * chance.random())
    return "broker killed twice"


async def everything_killed(made: World, load: Load, chance: random.Random) -> str:
    """kill -9 of all of it at once."""
    for one in made.all:
        one.kill()
    for process in (made.stores.broker.process, made.stores.database.process):
        assert process is not None
        process.kill()
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return "everything killed"


async def owner_stopped(made: World, load: Load, chance: random.Random) -> str:
    """SIGSTOP of the owner until another has claimed, then SIGCONT: it must find itself deposed."""
    first = await made.owner("data")
    first.signal(signal.SIGSTOP)
    try:
        await load.go_on(ANSWERS, RECOVER_SECONDS)
    finally:
        first.signal(signal.SIGCONT)
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    second = await made.owner("data")
    return "another claimed" if second is not first else "the same one claimed again"


async def broker_hangs(made: World, load: Load, chance: random.Random) -> str:
    """SIGSTOP of the broker for 10 to 30 seconds."""
    process = made.stores.broker.process
    assert process is not None
    seconds = chance.uniform(*HANG_SECONDS)
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        process.send_signal(signal.SIGCONT)
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"stopped for {seconds:.0f} s"


async def files_run_out(made: World, load: Load, chance: random.Random) -> str:
    """The owner may open no more files for a while: it can neither dial nor be dialled."""
    one = await made.owner("data")
    assert one.popen is not None
    process = psutil.Process(one.popen.pid)
    before = process.rlimit(resource.RLIMIT_NOFILE)
    limit = process.num_fds()
    process.rlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    made.kafka_line.set(made.kafka_line.mode.CUT)
    try:
        # The connections that it has go, and it cannot make others.
        await asyncio.sleep(STARVED_SECONDS)
    finally:
        made.kafka_line.set(made.kafka_line.mode.OPEN)
        if process.is_running():
            process.rlimit(resource.RLIMIT_NOFILE, before)
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"at most {limit} files for {STARVED_SECONDS:.0f} s"


async def clock_jumps(made: World, load: Load, chance: random.Random) -> str:
    """Both instances of data on a clock that jumps to and fro by up to 200 seconds."""
    library = fake_clock()
    assert library is not None
    told = made.stores.home.path / "clock"
    told.write_text("+0")
    more = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(told),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    kept = [(one, one.environ) for one in made.of("data")]
    jumps: list[int] = []
    try:
        for one, environ in kept:
            one.environ = {**environ, **more}
            one.kill()
        for _ in range(JUMPS):
            jumps.append(chance.randint(-JUMP_SECONDS, JUMP_SECONDS))
            told.write_text(f"{jumps[-1]:+d}")
            await load.go_on(ANSWERS, RECOVER_SECONDS)
    finally:
        for one, environ in kept:
            one.environ = environ
            one.kill()
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"seconds: {', '.join(f'{one:+d}' for one in jumps)}"


def fake_clock() -> Path | None:
    """libfaketime for threaded programs, where it is installed."""
    for folder in sorted(Path("/usr/lib").glob("*/faketime")):
        if (folder / "libfaketimeMT.so.1").exists():
            return folder / "libfaketimeMT.so.1"
    return None


def why_no_clock() -> str:
    """Why clocks cannot be made to jump here, or ""."""
    if os.name != "posix" or ctypes.util.find_library("c") is None:
        return "the system has no C library that can be preloaded"
    return "" if fake_clock() else "libfaketime is not installed (the package `faketime` has it)"
