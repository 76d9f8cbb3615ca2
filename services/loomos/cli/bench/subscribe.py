"""`loomos bench subscribe`: from a call that appends an event to fifty subscribers who have it.

1. Everything is as in life: data, loomdb and security are processes, every call and stream is gRPC
   over mTLS with a user's token, every event is confirmed, judged, and checked for each subscriber.
2. The subscribers and the appender are one process on the same machine with one clock: what they
   take is in the figures. A wait counts from before the append to the arrival at each subscriber.
"""

import asyncio
import json
import time

from loom.kit.client import Client
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.cli.bench.fleet import Fleet
from loomos.cli.bench.report import Report, percentile, single
from loomos.cli.demo.people import ORGANISATION

__all__ = ["measure"]

BENCH = "subscribe"
SUBSCRIBERS = (1, 50)
EVENTS = 100
TIMES = (1, 10)
PAUSE_SECONDS = 0.1
ARRIVAL_SECONDS = 60.0


def measure(report: Report, platform: Fleet) -> None:
    """Waits of one and of fifty subscribers, at a calm pace and at ten times of it."""
    import uvloop

    token = platform.token()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measured(report, platform, token))


async def measured(report: Report, platform: Fleet, token: str) -> None:
    """All rows."""
    async with platform.client() as client:
        for subscribers in SUBSCRIBERS:
            for times in TIMES:
                report.say(f"{subscribers} subscribers, {times * 10} events a second")
                waits = await fanned_out(client, token, subscribers, times)
                name = f"{subscribers}_subscribers_{times * 10}_per_second"
                report.add(single(BENCH, f"p50_{name}", [percentile(waits, 50)], "ms"))
                report.add(single(BENCH, f"p99_{name}", [percentile(waits, 99)], "ms"))


async def fanned_out(client: Client, token: str, subscribers: int, times: int) -> list[float]:
    """Every wait of every subscriber, in milliseconds."""
    count = EVENTS * times
    begun: dict[str, float] = {}
    waits: list[float] = []
    ready = [asyncio.Event() for _ in range(subscribers)]

    async def one(here: asyncio.Event) -> None:
        request = pb.SubscribeRequest(organisation_id=ORGANISATION, types=["job.completed"])
        left = count
        async for flow in client.stream(request, bearer=token):
            now = time.perf_counter()
            assert isinstance(flow, pb.EventFlow)
            if flow.live:
                here.set()
            for event in flow.events:
                # A stream begins where the index stands: the end of an earlier round may come too.
                if event.correlation_id in begun:
                    waits.append((now - begun[event.correlation_id]) * 1000)
                    left -= 1
            if not left:
                return

    async with asyncio.timeout(ARRIVAL_SECONDS), asyncio.TaskGroup() as tasks:
        for here in ready:
            tasks.create_task(one(here))
        for here in ready:
            await here.wait()
        for number in range(count):
            tasks.create_task(appended(client, token, f"{subscribers}-{times}-{number}", begun))
            await asyncio.sleep(PAUSE_SECONDS / times)
    return waits


async def appended(client: Client, token: str, name: str, begun: dict[str, float]) -> None:
    """One event; its story is its name."""
    event = data_pb2.NewEvent(
        type="job.completed",
        payload_json=json.dumps({"job_id": name, "status": "succeeded"}),
        correlation_id=name,
        stream=name,
    )
    begun[name] = time.perf_counter()
    request = data_pb2.AppendEventRequest(organisation_id=ORGANISATION, event=event)
    await client.tell(request, bearer=token)
