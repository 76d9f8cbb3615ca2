"""`loomos bench replay`: how fast the log is folded into state and projected into Postgres.

1. All read the log as every service does: judged record by record, digests compared, decoded.
2. The peer reads the same records and throws them away.
"""

import asyncio
import time
from typing import NamedTuple

import psutil

from loom.kit.config import Settings
from loom.kit.folder import Folder
from loom.kit.projector import Projector
from loom.kit.rebuild import rebuild
from loom.log import envelope
from loom.log.clock import Clock
from loom.log.envelope import Draft, Origin
from loom.log.judge import START, Kind
from loom.log.reader import Judged, Reader
from loom.log.writer import Doubt, Settle, Writer
from loom.store import Store
from loomos.cli.bench.ground import CONSUMER, Ground
from loomos.cli.bench.report import Report, Row, paired
from loomos.cli.bench.trivial import NAME, PROJECT, SERVICE, Requests, failed
from loomos.embedded.process import Unusable

__all__ = ["measure"]

BENCH = "replay"
EVENTS = 200_000
COMMAND_EVENTS = 20
APPEND_COMMANDS = 25
QUARTER = 0.25
MEBIBYTE = 2**20


class Replayed(NamedTuple):
    """One pass over the whole log."""

    per_second: float
    quarter_bytes: int
    """Resident memory of this process after a quarter of the events, and at the end."""
    end_bytes: int


async def measure(report: Report, ground: Ground, pairs: int) -> None:
    """All rows."""
    settings = ground.settings(NAME)
    report.say(f"writing {EVENTS} events")
    records = await write(settings)
    folds, projections, rebuilds, peers = [], [], [], []
    for pair in range(pairs):
        report.say(f"pair {pair + 1} of {pairs}")
        folds.append(await fold(settings))
        projections.append(await projected(settings))
        rebuilds.append(await rebuilt(settings))
        peers.append(await asyncio.to_thread(ground.consume, SERVICE.topic, records))
    for metric, passes in (("folded", folds), ("projected", projections)):
        rates = [one.per_second for one in passes]
        report.add(paired(BENCH, metric, rates, "events/s", CONSUMER, peers))
    report.add(paired(BENCH, "rebuilt_and_compared", rebuilds, "events/s", CONSUMER, peers))
    for metric, passes in (("fold_resident", folds), ("projected_resident", projections)):
        memory = passes[-1].end_bytes / MEBIBYTE
        before = passes[-1].quarter_bytes / MEBIBYTE
        peer = "the same process after 25 % of the events"
        report.add(Row(BENCH, metric, memory, "MiB", peer, before, memory / before))


async def write(settings: Settings) -> int:
    """Fill the log; how many records it then has, the claim's marker included."""
    writer = Writer(settings, SERVICE.topic, 0, "bench", START)
    await writer.begin(ignore)
    confirming = asyncio.create_task(writer.confirm())
    fates: list[asyncio.Future[int]] = []
    requests, clock, versions = Requests(), Clock(), dict[str, int]()
    try:
        for _ in range(0, EVENTS, COMMAND_EVENTS * APPEND_COMMANDS):
            commands = []
            for _ in range(APPEND_COMMANDS):
                fate = asyncio.get_running_loop().create_future()
                fates.append(fate)
                commands.append((drafts(requests, clock, versions), settled(fate)))
            await writer.send(writer.append(commands))
        await asyncio.gather(*fates)
    finally:
        confirming.cancel()
        await asyncio.gather(confirming, return_exceptions=True)
        await writer.close()
    return writer.reader.next_offset


def drafts(requests: Requests, clock: Clock, versions: dict[str, int]) -> list[Draft]:
    """The records of one command."""
    at_us = clock.tick()
    events = [failed(requests.one()) for _ in range(COMMAND_EVENTS)]
    found = []
    for event in events:
        versions[event.deployment_id] = versions.get(event.deployment_id, 0) + 1
        found.append(versions[event.deployment_id])
    origin = Origin(
        source=f"/loomos/{NAME}",
        shard=PROJECT,
        actor=f"service:{NAME}",
        command_id=f"bench-{at_us:x}",
        command_digest=bytes(32),
        issued_at_us=at_us,
        at_us=at_us,
        correlation_id=f"bench-{at_us:x}",
        causation_id="",
        context=(("policies", "deployment-serves"), ("policyhash", "0" * 64)),
    )
    return envelope.draft(events, found, origin)


def settled(fate: "asyncio.Future[int]") -> Settle:
    """Tell the future a command's fate."""

    def settle(found: "int | Doubt") -> None:
        if isinstance(found, Doubt):
            fate.set_exception(found)
        else:
            fate.set_result(found)

    return settle


async def ignore(records: list[Judged]) -> None:
    """The log was empty."""


async def fold(settings: Settings) -> Replayed:
    """Fold the whole log as a claimant does."""
    folder = Folder(SERVICE, settings, 0)
    reader = Reader(settings, SERVICE.topic, 0)
    await reader.start()
    process = psutil.Process()
    seen, quarter_bytes = 0, 0
    began = time.perf_counter()
    try:
        while seen < EVENTS:
            for record in await reader.batch():
                if record.verdict.kind == Kind.EVENT:
                    await folder.fold(reader.recorded(record))
                    seen += 1
            if not quarter_bytes and seen >= EVENTS * QUARTER:
                quarter_bytes = process.memory_info().rss
        elapsed = time.perf_counter() - began
    finally:
        await reader.stop()
    if folder.state(PROJECT).count != EVENTS:
        raise Unusable(f"{folder.state(PROJECT).count} of {EVENTS} events were folded")
    return Replayed(seen / elapsed, quarter_bytes, process.memory_info().rss)


async def projected(settings: Settings) -> Replayed:
    """Project the whole log into an empty read model."""
    store = Store(settings.postgres, NAME)
    await store.open()
    try:
        async with store.connection() as connection:
            await connection.execute("DROP TABLE IF EXISTS failures, positions, schema_version")
        await store.prepare(SERVICE.schema)
        projector = Projector(store, settings, SERVICE.topic, 0, SERVICE.project)
        process, quarter_bytes = psutil.Process(), 0
        began = time.perf_counter()
        running = asyncio.create_task(projector.run())
        while projector.base.n < EVENTS:
            if running.done():
                raise Unusable(f"the projector ended: {running.exception()!r}")
            if not quarter_bytes and projector.base.n >= EVENTS * QUARTER:
                quarter_bytes = process.memory_info().rss
            await asyncio.sleep(0.01)
        elapsed = time.perf_counter() - began
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        async with store.connection() as connection:
            rows = await (await connection.execute("SELECT count(*) AS n FROM failures")).fetchone()
        if rows is None or rows["n"] != EVENTS:
            raise Unusable(f"{rows} of {EVENTS} events were projected")
    finally:
        await store.close()
    return Replayed(EVENTS / elapsed, quarter_bytes, process.memory_info().rss)


async def rebuilt(settings: Settings) -> float:
    """Events a second into new tables beside the live ones, both digested at the end."""
    store = Store(settings.postgres, NAME)
    await store.open()
    try:
        began = time.perf_counter()
        compared = await rebuild(SERVICE, settings, store)
        elapsed = time.perf_counter() - began
    finally:
        await store.close()
    if any(one.live != one.rebuilt or one.rows != EVENTS for one in compared):
        raise Unusable(f"the rebuilt tables differ: {compared}")
    return EVENTS / elapsed
