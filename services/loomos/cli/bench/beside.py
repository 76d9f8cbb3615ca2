"""The part of `loomos bench append` where loomdb runs beside: every event is indexed and signed.

What is measured is what callers get while that is going on, and how long index and signature take
to reach the last event after the callers have ended.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from loom.kit.rebuild import positions
from loom.log.note import Verifier
from loom.log.reader import Reader
from loom.log.tiles import DamagedTree
from loom.log.topics import Bus
from loom.log.verify import open_trees
from loom.store import Store
from loomos.cli.bench.append import (
    MEASURED_SECONDS,
    PEER_TOPIC,
    WARMUP_SECONDS,
    Load,
    in_process,
    load,
    measure,
)
from loomos.cli.bench.ground import PRODUCER, Ground
from loomos.cli.bench.peer import PEER, run_peer
from loomos.cli.bench.report import Report, paired, single
from loomos.cli.bench.trivial import NAME, PAYLOAD_BYTES, SERVICE
from loomos.cli.soak.world import instance
from loomos.embedded.process import Unusable

__all__ = ["measure_all"]

BENCH = "append"
CALLERS = 1024
READY_SECONDS = 60.0
CAUGHT_UP_SECONDS = 600.0
POLL_SECONDS = 0.05
PEER_RECORDS = 300_000
PEER_EVENTS = 2_000


async def measure_all(report: Report, ground: Ground, pairs: int) -> None:
    """All rows of `append`: alone first, then with loomdb beside."""
    await measure(report, ground, pairs)
    await measure_beside(report, ground, PEER_TOPIC, pairs)


async def measure_beside(report: Report, ground: Ground, peer_topic: str, pairs: int) -> None:
    """Rows with loomdb beside, and against the library `eventsourcing` on the same Postgres."""
    bus = ground.stores.administrator()
    runs: list[Load] = []
    produced: list[float] = []
    alone: list[float] = []
    lasts: list[tuple[float, float]] = []
    async with loomdb(ground) as store, in_process(ground.settings(NAME)) as call:
        await load(call, CALLERS, WARMUP_SECONDS)
        for pair in range(pairs):
            report.say(f"with index and proofs, pair {pair + 1} of {pairs}")
            runs.append(await load(call, CALLERS, MEASURED_SECONDS))
            lasts.append(await caught_up(ground, store, await end_of(bus)))
            alone.append((await load(call, 1, MEASURED_SECONDS)).per_second)
            produced.append(
                await asyncio.to_thread(ground.produce, peer_topic, PEER_RECORDS, PAYLOAD_BYTES)
            )
    report.add(
        paired(
            BENCH,
            f"confirmed_{CALLERS}_callers_indexed_and_proved",
            [one.per_second for one in runs],
            "events/s",
            PRODUCER,
            produced,
        )
    )
    report.add(single(BENCH, "indexed_after_the_last", [one[0] for one in lasts], "s"))
    report.add(single(BENCH, "signed_after_the_last", [one[1] for one in lasts], "s"))
    report.say(f"the peer {PEER}")
    peers = [await asyncio.to_thread(run_peer, ground, PEER_EVENTS) for _ in range(pairs)]
    theirs = [one.alone for one in peers]
    report.add(paired(BENCH, "confirmed_1_caller_indexed", alone, "events/s", PEER, theirs))
    rates, theirs = [one.per_second for one in runs], [one.together for one in peers]
    report.add(paired(BENCH, "confirmed_most_against_8_threads", rates, "events/s", PEER, theirs))


@asynccontextmanager
async def loomdb(ground: Ground) -> AsyncIterator[Store]:
    """LoomDB as a process, serving, and its read models."""
    process = instance(
        "loomdb", ground.environ("loomdb"), ground.stores.home.logs / "bench-loomdb.log"
    )
    store = Store(process.settings.postgres, "loomdb", connections_max=2)
    process.start()
    await store.open()
    try:
        await process.healthy(READY_SECONDS)
        yield store
    except AssertionError as error:
        raise Unusable(str(error)[-300:]) from error
    finally:
        await store.close()
        process.kill()


async def end_of(bus: Bus) -> int:
    """Where the measured topic ends now."""
    reader = Reader(bus, SERVICE.topic, 0)
    try:
        return await reader.start()
    finally:
        await reader.stop()


async def caught_up(ground: Ground, store: Store, end: int) -> tuple[float, float]:
    """Seconds until the index holds the last event, and until the signed tree does."""
    home = ground.stores.home
    key = Verifier.parse((home.credentials / "loomdb" / "notary.pub").read_text())
    began = time.perf_counter()
    async with asyncio.timeout(CAUGHT_UP_SECONDS):
        while await indexed(store) < end:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        while await asyncio.to_thread(signed, home.path / "trees", key) < end:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)
    return seconds, time.perf_counter() - began


async def indexed(store: Store) -> int:
    """Where the index stands in the measured topic."""
    found = (place for place in await positions(store) if place.topic == SERVICE.topic)
    return next((place.base.offset for place in found), 0)


def signed(trees: Path, key: Verifier) -> int:
    """How many records the signed tree of the topic holds."""
    try:
        sealed = open_trees(trees, key)
    except DamagedTree:
        # The notary put a newer tile in place meanwhile.
        return 0
    return next((one.tree.size for one in sealed if one.topic == SERVICE.topic), 0)
