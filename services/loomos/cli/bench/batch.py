"""`loomos bench batch`: events a second that outsiders append in batches of a thousand.

1. All is as in life: data, loomdb and security are processes, each batch is one gRPC call over mTLS
   with a user's token; each event is held against its schema, its id against all others, confirmed,
   indexed and signed.
2. The peer sends as many bytes to the same broker with Kafka's own tool, which batches likewise.
"""

import asyncio
import itertools
import json
import random
import string
import time

from loom.kit.client import Client
from loom.v1 import data_pb2 as pb
from loomos.cli.bench.append import PEER_RECORDS, PEER_TOPIC
from loomos.cli.bench.fleet import Fleet
from loomos.cli.bench.ground import PRODUCER, Ground
from loomos.cli.bench.report import Report, paired, percentile, single
from loomos.cli.demo.people import ORGANISATION
from loomos.embedded.home import Home
from loomos.embedded.jars import TOOLS, classpath
from loomos.embedded.stores import Stores

__all__ = ["measure"]

BENCH = "batch"
EVENTS = 1000
CALLERS = 4
SECONDS = 10.0
WARMUP_SECONDS = 3.0
PAYLOAD_BYTES = 400
"""What makes records of about 512 bytes, as those of the peer."""
PAIRS = 3


def measure(report: Report, platform: Fleet) -> None:
    """Rates of batches and of the peer, alternating."""
    import uvloop

    ground = Ground(Stores(Home.open(platform.stage.home), {}), classpath(report.say, TOOLS))
    token = platform.token()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measured(report, platform, ground, token))


async def measured(report: Report, platform: Fleet, ground: Ground, token: str) -> None:
    """All rows."""
    await ground.topic(PEER_TOPIC)
    rates: list[float] = []
    peers: list[float] = []
    waits: list[float] = []
    names = itertools.count()
    async with platform.client() as client:
        await load(client, token, names, WARMUP_SECONDS)
        for pair in range(PAIRS):
            report.say(f"pair {pair + 1} of {PAIRS}")
            rate, took = await load(client, token, names, SECONDS)
            rates.append(rate)
            waits += took
            peers.append(await asyncio.to_thread(ground.produce, PEER_TOPIC, PEER_RECORDS, 512))
    name = f"confirmed_in_batches_of_{EVENTS}"
    report.add(paired(BENCH, name, rates, "events/s", PRODUCER, peers))
    report.add(single(BENCH, "p50_of_a_batch", [percentile(waits, 50)], "ms"))
    report.add(single(BENCH, "p99_of_a_batch", [percentile(waits, 99)], "ms"))


async def load(
    client: Client, token: str, names: "itertools.count[int]", seconds: float
) -> tuple[float, list[float]]:
    """Events a second of callers who each send the next batch once the last was answered."""
    waits: list[float] = []
    until = time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < until:
            await client.tell(batch(next(names)), bearer=token)
            waits.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(CALLERS):
            tasks.create_task(caller())
    return len(waits) * EVENTS / (time.perf_counter() - began), waits


def batch(number: int) -> pb.AppendEventsRequest:
    """A thousand checkpoints of ten runs, with letters by chance as the peer's payload has."""
    draw = random.Random(number)  # noqa: S311 - no secret
    letters = "".join(draw.choices(string.ascii_letters, k=PAYLOAD_BYTES + EVENTS))
    return pb.AppendEventsRequest(
        organisation_id=ORGANISATION,
        events=[
            pb.NewEvent(
                type="model.training.checkpoint",
                stream=f"run-{place % 10}",
                event_id=f"batch-{number}-{place}",
                payload_json=json.dumps(
                    {"epoch": place, "step": number, "note": letters[place : place + PAYLOAD_BYTES]}
                ),
            )
            for place in range(EVENTS)
        ],
    )
