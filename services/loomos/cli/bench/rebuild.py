"""`loomos bench rebuild`: users' events into all read models that hold them, from an empty table.

1. The read models are data's own and loomdb's index; both project what callers would have appended.
2. Each is then built anew beside itself and compared, row for row by digest.
3. All of it is done for so many events and for ten times as many, to show how cost grows.
4. Beside each speed stands the processor time an event, this process's and Postgres': who shares
   a machine slows the one and hardly moves the other.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable

import psutil

from loom.kit.config import Settings
from loom.kit.contract import Service
from loom.kit.projector import Projector
from loom.kit.rebuild import rebuild
from loom.log import envelope
from loom.log.clock import Clock
from loom.log.envelope import Draft, Origin
from loom.log.judge import START
from loom.log.reader import Reader
from loom.log.writer import Writer
from loom.store import Store
from loom.v1 import data_pb2 as pb
from loomos.cli.bench.ground import Ground
from loomos.cli.bench.peer import PEER, run_peer
from loomos.cli.bench.replay import ignore, settled
from loomos.cli.bench.report import Report, paired, single
from loomos.data.main import SERVICE as DATA
from loomos.embedded.process import Unusable
from loomos.loomdb.main import SERVICE as LOOMDB

__all__ = ["measure"]

BENCH = "rebuild"
TIMES = (1, 10)
COMMAND_EVENTS = 50
APPEND_COMMANDS = 20
STREAMS = 1000
ORGANISATION = "acme"
PEER_EVENTS = 2_000
EMPTY = """
DO $$ DECLARE name text; BEGIN
FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema() LOOP
EXECUTE format('DROP TABLE %I CASCADE', name); END LOOP; END $$
"""
SAID = json.dumps({"said": "x" * 256, "epoch": 7, "loss": 0.25}, separators=(",", ":")).encode()


async def measure(report: Report, ground: Ground, events: int) -> None:
    """All rows."""
    bus = ground.settings(DATA.name)
    versions: dict[str, int] = {}
    written = 0
    first: dict[str, float] = {}
    for times in TIMES:
        report.say(f"writing {events * times} events")
        await write(bus, events * times - written, versions)
        written = events * times
        end = await end_of(bus)
        for service in (DATA, LOOMDB):
            settings = ground.settings(service.name)
            store = Store(settings.postgres, service.name)
            await store.open()
            try:
                report.say(f"{service.name}: {written} events")
                await emptied(service, store)
                work = projected(service, settings, store, end)
                name = f"{service.name}_projected_{written}"
                rate = await timed(report, ground, name, written, work)
                first.setdefault(service.name, rate)
                name = f"{service.name}_rebuilt_and_compared_{written}"
                await timed(report, ground, name, written, same(service, settings, store))
            finally:
                await store.close()
    report.say(f"the peer {PEER}")
    theirs = (await asyncio.to_thread(run_peer, ground, PEER_EVENTS)).projected
    for name, rate in first.items():
        report.add(paired(BENCH, f"{name}_projected", [rate], "events/s", PEER, [theirs]))


async def write(bus: Settings, events: int, versions: dict[str, int]) -> None:
    """Append so many users' events to data's topic."""
    writer = Writer(bus, DATA.topic, 0, "bench", START)
    await writer.begin(ignore)
    confirming = asyncio.create_task(writer.confirm())
    fates: list[asyncio.Future[int]] = []
    clock = Clock()
    try:
        for _ in range(0, events, COMMAND_EVENTS * APPEND_COMMANDS):
            commands = []
            for _ in range(APPEND_COMMANDS):
                fate = asyncio.get_running_loop().create_future()
                fates.append(fate)
                commands.append((drafts(clock, versions), settled(fate)))
            await writer.send(writer.append(commands))
        await asyncio.gather(*fates)
    finally:
        confirming.cancel()
        await asyncio.gather(confirming, return_exceptions=True)
        await writer.close()


def drafts(clock: Clock, versions: dict[str, int]) -> list[Draft]:
    """The records of one command."""
    at_us = clock.tick()
    made: list[pb.EventAppended] = []
    found: list[int] = []
    command_id = uuid.uuid4().hex
    for index in range(COMMAND_EVENTS):
        stream = f"{ORGANISATION}/run-{(at_us + index) % STREAMS}"
        versions[stream] = versions.get(stream, 0) + 1
        found.append(versions[stream])
        made.append(
            pb.EventAppended(
                stream_id=stream,
                organisation_id=ORGANISATION,
                event_id=f"{command_id}-{index}",
                event_type="bench.sample.taken",
                schema_version="1.0.0",
                schema_digest=bytes(16),
                payload=SAID,
                digest=bytes(16),
                append_id=command_id[:20],
                occurred_at_us=at_us,
                appended_at_us=at_us,
            )
        )
    origin = Origin(
        source=f"/loomos/{DATA.name}",
        shard=ORGANISATION,
        actor="user:usr-acme-bench",
        command_id=command_id,
        command_digest=bytes(32),
        issued_at_us=at_us,
        at_us=at_us,
        correlation_id=command_id,
        causation_id="",
    )
    return envelope.draft(made, found, origin)


async def timed(
    report: Report, ground: Ground, name: str, events: int, work: Awaitable[None]
) -> float:
    """Do it; its rows are events a second, which is given back, and processor time an event."""
    before, database_s = time.process_time(), postgres_s(ground)
    began = time.perf_counter()
    await work
    rate = events / (time.perf_counter() - began)
    own_us = (time.process_time() - before) / events * 1e6
    database_us = (postgres_s(ground) - database_s) / events * 1e6
    report.add(single(BENCH, name, [rate], "events/s"))
    report.add(single(BENCH, f"{name}_cpu", [own_us], "us"))
    report.add(single(BENCH, f"{name}_postgres_cpu", [database_us], "us"))
    return rate


def postgres_s(ground: Ground) -> float:
    """Seconds of processor time of the server and of all of its processes, ended ones too."""
    server = ground.stores.database.process
    assert server is not None
    total = 0.0
    parent = psutil.Process(server.pid)
    for process in (parent, *parent.children(recursive=True)):
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


async def emptied(service: Service, store: Store) -> None:
    """Make the read models anew."""
    async with store.connection() as connection:
        await connection.execute(EMPTY)
    await store.prepare(service.schema)


async def end_of(bus: Settings) -> int:
    """Where data's log ends."""
    reader = Reader(bus, DATA.topic, 0)
    end = await reader.start()
    await reader.stop()
    return end


async def projected(service: Service, settings: Settings, store: Store, end: int) -> None:
    """Project the log to its end into empty read models."""
    projector = Projector(store, settings, DATA.topic, 0, service.project)
    running = asyncio.create_task(projector.run())
    while projector.base.offset < end:
        if running.done():
            raise Unusable(f"the projector of {service.name} ended: {running.exception()!r}")
        await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def same(service: Service, settings: Settings, store: Store) -> None:
    """Build all tables anew; raises Unusable where one differs."""
    compared = await rebuild(service, settings, store)
    if any(one.live != one.rebuilt for one in compared):
        raise Unusable(f"{service.name}: the rebuilt tables differ: {compared}")
