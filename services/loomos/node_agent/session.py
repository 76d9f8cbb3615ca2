"""The one stream between this node and the resource manager: reports up, orders down.

1. A session begins with the full state; facts are repeated in order until they are accepted.
2. The lease runs from the moment a heartbeat was *sent*, so the node never believes in it longer
   than the resource manager does. While no session holds, jobs go on until it is over.
3. A broken session is begun anew, after a random and growing pause; nothing is lost by it.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import structlog

from loom.kit.client import Client
from loom.kit.errors import Failure
from loom.v1 import resource_manager_pb2 as rm
from loomos.node_agent.outbox import Outbox
from loomos.node_agent.runs import Runs, boot_id, lease_clock

METHOD = "/loom.v1.ResourceManager/NodeSession"
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.2, 3.0
HEARTBEATS_PER_LEASE = 5
QUEUED_MAX = 64
LOGS_MAX = 16
LOG_BYTES = 64 << 10
LOG_LOOK_SECONDS = 0.25


class Session:
    """Holds the stream for as long as the agent lives."""

    def __init__(self, client: Client, cluster: str, runs: Runs, outbox: Outbox) -> None:
        self.client, self.cluster = client, cluster
        self.runs, self.outbox = runs, outbox
        self.boot_id = boot_id()
        self.connected = False
        self.log = structlog.stdlib.get_logger("node-agent")

    async def hold(self) -> None:
        """Begins a session, and another one whenever it ends, until cancelled."""
        pause = PAUSE_SECONDS_MIN
        while True:
            stream = _Stream(self)
            try:
                await stream.run()
                self.log.warning("session ended by the resource manager")
            except Failure as failure:
                self.log.warning("session broken", code=failure.code, error=str(failure))
            pause = PAUSE_SECONDS_MIN if self.connected else min(PAUSE_SECONDS_MAX, pause * 2)
            self.connected = False
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter


class _Stream:
    """One session."""

    def __init__(self, session: Session) -> None:
        self.session, self.runs, self.outbox = session, session.runs, session.outbox
        self.queue: asyncio.Queue[rm.NodeReport] = asyncio.Queue(QUEUED_MAX)
        self.reconciled = asyncio.Event()
        self.lease_seconds = 0
        self.sent_at: dict[int, float] = {}
        self.logs: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Speaks and listens until the stream ends; raises Failure when it breaks."""
        tasks = [asyncio.create_task(self._beat()), asyncio.create_task(self._tell())]
        self.began_at = lease_clock()
        orders = self.session.client.stream(
            self._reports(), method=METHOD, shard=self.session.cluster
        )
        try:
            async for order in orders:
                assert isinstance(order, rm.NodeOrder)
                self._obey(order)
        finally:
            for task in [*tasks, *self.logs.values()]:
                task.cancel()
            await asyncio.gather(*tasks, *self.logs.values(), return_exceptions=True)

    async def _reports(self) -> AsyncIterator[rm.NodeReport]:
        incarnation, epoch, offset = self.runs.token
        token = rm.FencingToken(incarnation=incarnation, epoch=epoch, offset=offset)
        hello = rm.NodeHello(boot_id=self.session.boot_id, highest_token=token)
        hello.runs.extend(self.runs.states())
        yield rm.NodeReport(hello=hello)
        while True:
            yield await self.queue.get()

    async def _beat(self) -> None:
        await self.reconciled.wait()
        number = 0
        while True:
            number += 1
            self.sent_at[number] = lease_clock()
            await self.queue.put(rm.NodeReport(heartbeat=rm.Heartbeat(number=number)))
            await asyncio.sleep(self.lease_seconds / HEARTBEATS_PER_LEASE)

    async def _tell(self) -> None:
        await self.reconciled.wait()
        number = 0
        while True:
            report = await self.outbox.after(number)
            await self.queue.put(report)
            number = report.number

    def _obey(self, order: rm.NodeOrder) -> None:
        if order.HasField("token") and not self.runs.fence(order.token):
            return
        match order.WhichOneof("order"):
            case "reconcile":
                self._reconcile(order.reconcile)
            case "start":
                self.runs.start(order.start)
            case "stop":
                self.runs.stop(order.stop.allocation_id, order.stop.grace_period_seconds)
            case "lease":
                self._extend(order.lease.heartbeat)
            case "accepted":
                self.outbox.settle(order.accepted.number, order.accepted.refusal)
            case "send_log":
                self._send_log(order.send_log)
            case "stop_log":
                task = self.logs.pop(order.stop_log.request_id, None)
                if task is not None:
                    task.cancel()

    def _reconcile(self, reconcile: rm.Reconcile) -> None:
        self.lease_seconds = reconcile.lease_seconds
        self.runs.extend_lease(self.began_at + self.lease_seconds)
        known = {*reconcile.kept_allocation_ids, *(stop.allocation_id for stop in reconcile.stops)}
        for state in self.runs.states():
            if state.allocation_id not in known and not state.ended:
                self.session.log.warning("unknown run stopped", allocation_id=state.allocation_id)
                self.runs.stop(state.allocation_id, 0)
        for stop in reconcile.stops:
            self.runs.stop(stop.allocation_id, stop.grace_period_seconds)
        for start in reconcile.starts:
            self.runs.start(start)
        self.session.connected = True
        self.session.log.info("session begun", lease_seconds=self.lease_seconds)
        self.reconciled.set()

    def _extend(self, heartbeat: int) -> None:
        sent_at = self.sent_at.pop(heartbeat, None)
        if sent_at is not None:
            self.runs.extend_lease(sent_at + self.lease_seconds)
            self.sent_at = {n: at for n, at in self.sent_at.items() if n > heartbeat}

    def _send_log(self, order: rm.SendLog) -> None:
        self.logs = {name: task for name, task in self.logs.items() if not task.done()}
        if len(self.logs) < LOGS_MAX and order.request_id not in self.logs:
            self.logs[order.request_id] = asyncio.create_task(self._copy_log(order))

    async def _copy_log(self, order: rm.SendLog) -> None:
        run = self.runs.log_of(order.job_id, order.run)
        chunk = rm.LogChunk(request_id=order.request_id, offset=order.offset)
        if run is None:
            chunk.end, chunk.error = True, "this node has no log of that run (any more)"
            await self.queue.put(rm.NodeReport(log=chunk))
            return
        offset = order.offset
        while True:
            ended = run.ended
            data = await asyncio.to_thread(run.read_log, offset, LOG_BYTES)
            done = not data and (ended or not order.follow)
            if data or done:
                chunk = rm.LogChunk(request_id=order.request_id, offset=offset, data=data)
                chunk.run, chunk.end = run.order.run.run, done
                await self.queue.put(rm.NodeReport(log=chunk))
            offset += len(data)
            if done:
                return
            if not data:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOG_LOOK_SECONDS):
                        await run.finished.wait()
