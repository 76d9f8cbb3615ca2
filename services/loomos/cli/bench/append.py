"""`loomos bench append`: confirmed events a second, and how long a caller waits for his answer.

1. Every call is checked against the contract, authorised by the real policies, decided, appended
   with acks=all and flushed, and read back before it counts.
2. The peer only produces: nobody checks, decides or reads back what it sends.
"""

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import Message

from loom.kit.authorize import Authorizer
from loom.kit.client import Client
from loom.kit.commander import Commander
from loom.kit.config import Settings
from loom.kit.entries import Entry
from loom.kit.service import digest_of
from loom.kit.validate import check
from loom.log.clock import now_us
from loom.store import Store
from loomos.cli.bench.ground import PRODUCER, Ground
from loomos.cli.bench.report import Report, paired, percentile, single
from loomos.cli.bench.trivial import NAME, PAYLOAD_BYTES, PROJECT, SERVICE, Requests
from loomos.embedded.health import healthy
from loomos.embedded.process import Unusable

__all__ = ["measure"]

BENCH = "append"
CALLERS = (1, 64, 1024)
GRPC_CALLERS = (1, 64)
WARMUP_SECONDS = 2.0
MEASURED_SECONDS = 5.0
READY_SECONDS = 60.0
PEER_RECORDS = 300_000
PEER_TOPIC = "loomos.bench-peer"
REQUESTS = Requests()

Call = Callable[[Message], Awaitable[object]]


class Load(NamedTuple):
    """One run of so many callers."""

    per_second: float
    p50_ms: float
    p99_ms: float


async def measure(report: Report, ground: Ground, pairs: int) -> None:
    """All rows; gRPC first, because its service folds what the log holds."""
    await ground.topic(PEER_TOPIC)
    async with over_grpc(ground) as call:
        for callers in GRPC_CALLERS:
            report.say(f"gRPC over mTLS, {callers} callers")
            await load(call, callers, WARMUP_SECONDS)
            runs = [await load(call, callers, MEASURED_SECONDS) for _ in range(pairs)]
            tell(report, f"grpc_{callers}_callers", runs)
    async with in_process(ground.settings(NAME)) as call:
        found: dict[int, list[Load]] = {callers: [] for callers in CALLERS}
        peers: list[float] = []
        await load(call, CALLERS[-1], WARMUP_SECONDS)
        for pair in range(pairs):
            report.say(f"pair {pair + 1} of {pairs}")
            for callers in CALLERS:
                found[callers].append(await load(call, callers, MEASURED_SECONDS))
            # The commander's own loop goes on meanwhile: it reads an idle partition.
            peers.append(
                await asyncio.to_thread(ground.produce, PEER_TOPIC, PEER_RECORDS, PAYLOAD_BYTES)
            )
        for callers in CALLERS:
            tell(report, f"{callers}_callers", found[callers], peers)


def tell(report: Report, name: str, runs: list[Load], peers: list[float] | None = None) -> None:
    """The three rows of one number of callers."""
    rates = [run.per_second for run in runs]
    metric, unit = f"confirmed_{name}", "events/s"
    if peers is None:
        report.add(single(BENCH, metric, rates, unit))
    else:
        report.add(paired(BENCH, metric, rates, unit, PRODUCER, peers))
    report.add(single(BENCH, f"p50_{name}", [run.p50_ms for run in runs], "ms"))
    report.add(single(BENCH, f"p99_{name}", [run.p99_ms for run in runs], "ms"))


async def load(call: Call, callers: int, seconds: float) -> Load:
    """Callers who ask one after another, each as soon as he was answered."""
    waits: list[float] = []
    until = time.perf_counter() + seconds

    async def caller() -> None:
        now = time.perf_counter()
        while now < until:
            began = now
            await call(REQUESTS.one())
            now = time.perf_counter()
            waits.append(now - began)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(callers):
            tasks.create_task(caller())
    elapsed = time.perf_counter() - began
    return Load(len(waits) / elapsed, percentile(waits, 50) * 1000, percentile(waits, 99) * 1000)


@asynccontextmanager
async def in_process(settings: Settings) -> AsyncIterator[Call]:
    """A commander of this process, called as a door calls it."""
    authorizer = Authorizer(settings)
    await authorizer.start()
    commander = Commander(SERVICE, settings, 0, authorizer, "bench")
    running = asyncio.create_task(commander.run())
    run_id = uuid.uuid4().hex[:12]
    count = 0

    async def call(request: Message) -> object:
        nonlocal count
        count += 1
        check(request)
        command_id = f"{run_id}-{count}"
        entry = Entry(
            request=request,
            caller=authorizer.service_caller(NAME),
            shard=PROJECT,
            action="ReportDeploymentFailed",
            command_id=command_id,
            digest=digest_of(request),
            issued_at_us=now_us(),
            correlation_id=command_id,
            causation_id="",
            traceparent="",
            expected={},
            answer=asyncio.get_running_loop().create_future(),
        )
        answer = await commander.submit(entry)
        if answer.code:
            raise Unusable(f"a command was refused: {answer.code}: {answer.message}")
        return answer

    try:
        await asyncio.wait_for(commander.serving.wait(), READY_SECONDS)
        yield call
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await authorizer.stop()


@asynccontextmanager
async def over_grpc(ground: Ground) -> AsyncIterator[Call]:
    """The same service as a process of its own, called over mTLS."""
    settings = ground.settings(NAME)
    log = ground.stores.home.logs / "bench.log"
    process = launch(ground, log)
    store = Store(settings.postgres, NAME)
    await store.open()
    address = ""

    async def resolve(service: str, shard: str) -> str:
        return address

    client = Client(settings, resolve)
    try:
        async with asyncio.timeout(READY_SECONDS):
            while not (address and await healthy(settings, address)):
                if process.poll() is not None:
                    raise Unusable(f"the bench's service ended: {log.read_text()[-300:]}")
                await asyncio.sleep(0.1)
                address = await owner(store)

        async def call(request: Message) -> object:
            return await client.tell(request)

        yield call
    finally:
        await client.close()
        await store.close()
        process.terminate()
        process.wait()


def launch(ground: Ground, log: Path) -> subprocess.Popen[bytes]:
    """The service's process."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "loomos.cli.bench.trivial"],
            env=ground.environ(NAME),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


async def owner(store: Store) -> str:
    """Where the service listens, once it has made its tables and holds its lease."""
    async with store.connection() as connection:
        row = await (
            await connection.execute("SELECT to_regclass('loom.leases') IS NOT NULL AS there")
        ).fetchone()
    if row is None or not row["there"]:
        return ""
    return await store.owner_address(SERVICE.topic, 0)
