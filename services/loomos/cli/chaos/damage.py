"""Faults of what lies on disks: a full disk, stores restored from backups, a rebuild beside them.

1. A log that is older than what was read of it stops its readers loudly; given back, they go on.
"""

import asyncio
import random
import shutil

from loom.kit.rebuild import positions, rebuild
from loom.log.segments import Stored, read_partition
from loomos.cli.chaos.invariants import READ_MODELS
from loomos.cli.chaos.world import RECOVER_SECONDS, TOPIC, World, store_of
from loomos.cli.soak.load import Load
from loomos.cli.soak.process import Process

__all__ = ["database_disk_full", "database_older", "disk_full", "log_older", "rebuilt_under_load"]

ANSWERS = 15
FULL_SECONDS = 6.0
POLL_SECONDS = 0.3
NO_ROOM = b"No space left on device"


async def disk_full(made: World, load: Load, chance: random.Random) -> str:
    """Kafka's disk has no room: nothing is acknowledged until there is room again."""
    disk = made.disks["kafka"]
    process = made.stores.broker.process
    assert process is not None
    async with made.unhealed():
        disk.fill()
        try:
            await asyncio.sleep(FULL_SECONDS)
            ended = process.poll() is not None
        finally:
            disk.clear()
        if not ended:
            # A broker whose only disk failed serves no more, whether or not it has ended.
            process.kill()
            process.wait()
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"full for {FULL_SECONDS:.0f} s; the broker {'ended' if ended else 'refused'}"


async def database_disk_full(made: World, load: Load, chance: random.Random) -> str:
    """Postgres's disk has no room: its tables wait, whether or not it ends, and then catch up."""
    disk, process = made.disks["postgres"], made.stores.database.process
    assert process is not None
    async with made.unhealed():
        log, before = made.stores.database.log, load.answered
        known = log.stat().st_size
        disk.fill()
        try:
            async with asyncio.timeout(RECOVER_SECONDS):
                while NO_ROOM not in log.read_bytes()[known:]:  # noqa: ASYNC110 - a server says
                    await asyncio.sleep(POLL_SECONDS)
            await asyncio.sleep(FULL_SECONDS)
            ended = process.poll() is not None
        finally:
            disk.clear()
    during = load.answered - before
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    how = "ended" if ended else "refused to write"
    return f"the server {how}; {during} commands were answered meanwhile"


async def database_older(made: World, load: Load, chance: random.Random) -> str:
    """Postgres comes back from a backup that is older than the log."""
    database = made.stores.database
    backup = database.folder / "backup"
    shutil.rmtree(backup, ignore_errors=True)
    async with made.unhealed():
        database.stop()
        shutil.copytree(database.data, backup)
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    async with made.unhealed():
        database.stop()
        shutil.rmtree(database.data)
        backup.rename(database.data)
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return "read models restored from before the last answers"


async def log_older(made: World, load: Load, chance: random.Random) -> str:
    """Kafka comes back without its newest records: readers stop loudly, and go on with them."""
    broker = made.stores.broker
    folder = broker.folder / "data" / f"{TOPIC}-0"
    old, new = broker.folder / "backup-old", broker.folder / "backup-new"
    for path in (old, new):
        shutil.rmtree(path, ignore_errors=True)
    async with made.unhealed():
        broker.stop()
        shutil.copytree(folder, old)
    last = max(one.offset for one in read_partition(old) if isinstance(one, Stored))
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    await read_beyond(made, last)
    async with made.unhealed():
        # In order, so that what the broker has is on the disk.
        broker.stop()
        for one in made.all:
            one.kill()
        shutil.copytree(folder, new)
        shutil.rmtree(folder)
        shutil.copytree(old, folder)
        await made.stores_answer()
        try:
            await stopped_loudly(made.of("loomdb")[0])
        finally:
            broker.stop()
            shutil.rmtree(folder)
            shutil.move(new, folder)
            shutil.rmtree(old)
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return "readers stopped and named the partition; with the records back all went on"


async def read_beyond(made: World, offset: int) -> None:
    """Wait until loomdb has read records behind this offset: who has not may go on without them."""
    store = await store_of(made, "loomdb")
    try:
        async with asyncio.timeout(RECOVER_SECONDS):
            while not any(  # noqa: ASYNC110 - another process reads
                place.topic == TOPIC and place.base.offset > offset + 1
                for place in await positions(store)
            ):
                await asyncio.sleep(POLL_SECONDS)
    finally:
        await store.close()


async def stopped_loudly(reader: Process) -> None:
    """Start a reader that has seen more than the log holds: it ends and says of which partition."""
    reader.start()
    status = await reader.ended(RECOVER_SECONDS)
    last = reader.said().strip().splitlines()[-1]
    assert status != 0, "loomdb ended as if nothing were wrong"
    assert "LogDiverged" in last, f"loomdb ended without a word of the log: {last[:200]}"
    assert f"{TOPIC}/0" in last, f"loomdb does not name the partition: {last[:200]}"


async def rebuilt_under_load(made: World, load: Load, chance: random.Random) -> str:
    """Read models are rebuilt beside the live ones: once cancelled, then whole, digests equal."""
    rows = 0
    for service in READ_MODELS:
        store = await store_of(made, service.name)
        settings = made.settings(service.name)
        try:
            first = asyncio.ensure_future(rebuild(service, settings, store))
            await asyncio.sleep(chance.random())
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            for one in await rebuild(service, settings, store):
                assert one.live == one.rebuilt, f"{service.name}.{one.table} is not the log's fold"
                rows += one.rows
        finally:
            await store.close()
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"{rows} rows compared while events came in"
