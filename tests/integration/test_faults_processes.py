"""Faults against real processes under load: two resource managers, Kafka, Postgres.

After each fault everything that callers were told still holds: acknowledged commands stand once,
refused ones as refusals, unknown ones once or not at all; versions have no gaps, the read model is
the log's fold, and every hash tree seen before is a prefix of the next one.
"""

import asyncio
import contextlib
import shutil
import signal

import pytest
from tests.appending import append, writing
from tests.conftest import empty_database, empty_log

from loom.log.reader import LogAway, LogDiverged, Reader
from loom.store import LEASE_S
from loomos.cli.soak.world import TOPIC, World

pytestmark = [pytest.mark.bus, pytest.mark.db, pytest.mark.timeout(300)]

SEED = 20261122


@pytest.fixture(scope="module")
def world(module_platform):
    found = World(module_platform.stores, SEED)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        found.heal_stores()


@pytest.mark.slow
async def test_each_process_killed_in_turn(world):
    async with world.loaded() as load:
        for one in world.instances:
            one.kill()
            await load.go_on(30)
        world.stores.database.process.kill()
        await load.go_on(30)
        world.stores.broker.process.kill()
        await load.go_on(30, 90)


@pytest.mark.slow
async def test_all_processes_killed_at_once(world):
    async with world.loaded() as load:
        for process in (*(one.popen for one in world.instances), world.stores.broker.process):
            process.kill()
        world.stores.database.process.kill()
        await load.go_on(30, 90)


async def test_a_stopped_owner_is_deposed_and_comes_back_as_nobody(world):
    async with world.loaded() as load:
        for one in world.instances:
            one.signal(signal.SIGSTOP)
            await load.go_on(30, LEASE_S + 60)
            one.signal(signal.SIGCONT)
            await load.go_on(30)


@pytest.mark.slow
async def test_a_broker_that_hangs(world):
    async with world.loaded() as load:
        world.stores.broker.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(20)
        world.stores.broker.process.send_signal(signal.SIGCONT)
        await load.go_on(30, 90)


async def test_a_database_killed_again_and_again_while_it_is_written(world):
    async with world.loaded() as load:
        for _ in range(3):
            await load.go_on(20, 90)
            world.stores.database.process.kill()


async def test_a_database_wiped(world, module_platform):
    async with world.loaded() as load:
        await asyncio.to_thread(empty_database, module_platform)
        await load.go_on(30, 90)


@pytest.mark.slow
async def test_a_database_restored_older(world):
    database = world.stores.database
    backup = database.folder / "backup"
    async with world.loaded():
        pass
    database.stop()
    shutil.copytree(database.data, backup)
    world.heal()
    async with world.loaded():
        pass
    database.stop()
    shutil.rmtree(database.data)
    backup.rename(database.data)
    world.heal()
    async with world.loaded():
        pass


async def grow(bus, note, until: int) -> None:
    """Another claim of the partition, with records up to an offset."""

    offset, version = 0, 0
    async with writing(bus, TOPIC) as writer:
        while offset < until:
            version += 1
            (offset,) = await append(writer, [note("partition-0", version, *["x"] * 50)])


@pytest.mark.parametrize("regrown", [pytest.param(False, marks=pytest.mark.slow), True])
async def test_a_log_that_lost_its_tail_stops_whoever_read_it(
    world, module_platform, note, regrown
):
    broker, (first, second) = world.stores.broker, world.instances
    folder = broker.folder / "data" / f"{TOPIC}-0"
    backup = broker.folder / "backup"
    async with world.loaded():
        pass
    broker.process.kill()
    broker.process.wait()
    shutil.copytree(folder, backup)
    world.heal()
    async with world.loaded():
        pass
    reader = Reader(world.settings, TOPIC, 0)
    end = await reader.start()
    while reader.next_offset < end:
        await reader.batch()
    second.kill()
    if regrown:
        first.signal(signal.SIGSTOP)
    broker.process.kill()
    broker.process.wait()
    shutil.rmtree(folder)
    backup.rename(folder)
    world.heal_stores()
    if regrown:
        await grow(module_platform.administrator, note, end + 10)
        first.signal(signal.SIGCONT)
    try:
        for _ in range(2):
            # The one that lived through it, and the one that starts on what it has stored.
            assert await first.ended() != 0
            last = first.said().strip().splitlines()[-1]
            assert "LogDiverged" in last
            assert f"{TOPIC}/0" in last
            first.start()
        async with asyncio.timeout(30):
            with pytest.raises(LogDiverged, match=f"{TOPIC}/0"):
                while True:
                    with contextlib.suppress(LogAway):
                        await reader.batch()
    finally:
        await reader.stop()
        await first.ended()
        empty_log(module_platform)
        empty_database(module_platform)
        world.forget()
        world.heal()
