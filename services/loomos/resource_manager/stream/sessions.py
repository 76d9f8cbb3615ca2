"""The sessions of this process: gives orders out as the log says, misses nodes that fall silent.

1. Orders follow the log, read in order by one task: a session's tokens only grow.
2. A session gets orders from its own NodeConnected on; what came before stands in that event.
3. A node is reported lost when neither its session nor, after a start, this process has heard of it
   for a lease; only the owner of the shard reports. A lost node's session ends: it must come anew.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loom.decider import Recorded, shard_of
from loom.kit.errors import Failure
from loom.log.topics import partition_of
from loom.v1 import resource_manager_pb2 as pb

if TYPE_CHECKING:
    from loom.kit.service import Shell

__all__ = ["SESSIONS", "Session", "Sessions", "watch"]

ORDERS_MAX = 10_000
CHUNKS_MAX = 64
LOOK_SECONDS = 1.0


@dataclass(slots=True)
class Session:
    """One node's stream."""

    node_id: str
    session_id: str
    orders: asyncio.Queue[pb.NodeOrder | None]
    heard_at_s: float
    connected: bool = False
    closed: bool = False
    logs: dict[str, asyncio.Queue[pb.LogChunk | None]] = field(default_factory=dict)
    """Who asks for a log → its chunks; None when no more come."""

    def pass_log(self, chunk: pb.LogChunk) -> None:
        """Hand on a piece of a log; stop it where nobody asks, or who asks does not keep up."""
        chunks = self.logs.get(chunk.request_id)
        if chunks is not None and chunks.qsize() < CHUNKS_MAX:
            chunks.put_nowait(chunk)
            return
        if self.logs.pop(chunk.request_id, None) is not None and chunks is not None:
            chunks.put_nowait(None)
        stop = pb.StopLog(request_id=chunk.request_id)
        self.give(pb.NodeOrder(stop_log=stop))

    def give(self, order: pb.NodeOrder) -> None:
        """Send an order; a node that does not take its orders loses its session, not an order."""
        if self.closed:
            return
        try:
            self.orders.put_nowait(order)
        except asyncio.QueueFull:
            self.close()

    def close(self) -> None:
        """End the stream; the agent comes back with its full state."""
        self.closed = True
        for chunks in self.logs.values():
            chunks.put_nowait(None)
        while not self.orders.empty():
            self.orders.get_nowait()
        self.orders.put_nowait(None)


@dataclass(slots=True)
class Sessions:
    """All sessions of this process, and what the log says that they need."""

    began_at_s: float = field(default_factory=time.monotonic)
    live: dict[str, Session] = field(default_factory=dict)
    """Each node's last session; a closed one still says when the node was heard."""
    leases: dict[str, int] = field(default_factory=dict)
    """Connected nodes → lease in seconds."""
    registered: dict[str, int] = field(default_factory=dict)
    starts: dict[str, pb.StartRun] = field(default_factory=dict)
    """Allocation → its order, until its run has started."""
    stories: dict[str, str] = field(default_factory=dict)
    """Live allocation → correlation id of its job's story."""

    def enter(self, node_id: str, session_id: str) -> Session:
        """A session begins; an earlier one of the same node ends."""
        earlier = self.live.get(node_id)
        if earlier is not None:
            earlier.close()
        orders: asyncio.Queue[pb.NodeOrder | None] = asyncio.Queue(ORDERS_MAX)
        session = Session(node_id, session_id, orders, time.monotonic())
        self.live[node_id] = session
        return session

    def heard(self, record: Recorded) -> None:
        """Turn one event into the orders that it justifies."""
        token = pb.FencingToken(
            incarnation=record.position.incarnation,
            epoch=record.epoch,
            offset=record.position.offset,
        )
        match record.event:
            case pb.NodeRegistered() as event:
                self.registered[event.node_id] = event.lease_seconds
            case pb.NodeConnected() as event:
                self.leases[event.node_id] = self.registered[event.node_id]
                self._connected(event, token)
            case pb.NodeLost() as event:
                self.leases.pop(event.node_id, None)
                session = self.live.get(event.node_id)
                if session is not None and session.session_id == event.session_id:
                    session.close()
            case pb.AllocationGranted() as event:
                start = pb.StartRun(
                    allocation_id=event.allocation_id, run=event.run, gpu_uuids=event.gpu_uuids
                )
                self.starts[event.allocation_id] = start
                self.stories[event.allocation_id] = record.correlation_id
                self._order(event.node_id, pb.NodeOrder(token=token, start=start))
            case pb.AllocationStarted() as event:
                self.starts.pop(event.allocation_id, None)
            case pb.AllocationReleaseRequested() as event:
                stop = pb.StopRun(
                    allocation_id=event.allocation_id,
                    job_id=event.job_id,
                    run=event.run,
                    reason=event.reason,
                    grace_period_seconds=event.grace_period_seconds,
                )
                self._order(event.node_id, pb.NodeOrder(token=token, stop=stop))
            case pb.AllocationReleased() as event:
                self.starts.pop(event.allocation_id, None)
                self.stories.pop(event.allocation_id, None)
            case _:
                pass

    def _connected(self, event: pb.NodeConnected, token: pb.FencingToken) -> None:
        session = self.live.get(event.node_id)
        if session is None or session.session_id != event.session_id:
            return
        session.connected = True
        reconcile = pb.Reconcile(
            kept_allocation_ids=event.kept_allocation_ids,
            stops=event.stops,
            starts=[self.starts[one] for one in event.missing_allocation_ids],
            lease_seconds=self.leases[event.node_id],
        )
        session.give(pb.NodeOrder(token=token, reconcile=reconcile))

    def _order(self, node_id: str, order: pb.NodeOrder) -> None:
        session = self.live.get(node_id)
        if session is not None and session.connected:
            session.give(order)

    def silent(self, now_s: float) -> list[tuple[str, str]]:
        """Connected nodes that were not heard of for a lease, with the session last seen."""
        found: list[tuple[str, str]] = []
        for node_id, lease_seconds in sorted(self.leases.items()):
            session = self.live.get(node_id)
            heard_at_s = session.heard_at_s if session else self.began_at_s
            if now_s - max(heard_at_s, self.began_at_s) > lease_seconds:
                found.append((node_id, session.session_id if session else ""))
        return found


SESSIONS = Sessions()


async def watch(shell: "Shell") -> None:
    """Runs beside the service: gives orders out, and reports nodes that fell silent."""
    async with asyncio.TaskGroup() as tasks:
        for partition in range(shell.settings.partitions):
            tasks.create_task(give_orders(shell, partition))
        tasks.create_task(miss(shell))


async def give_orders(shell: "Shell", partition: int) -> None:
    """Follow one partition of the service's own log, in order."""
    async for record, _ in shell.follow(shell.name, partition):
        SESSIONS.heard(record)


async def miss(shell: "Shell") -> None:
    """Look once a second; sessions end when another process owns their shard."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            for node_id in sorted({*SESSIONS.leases, *SESSIONS.live}):
                if not await owns(shell, node_id) and node_id in SESSIONS.live:
                    SESSIONS.live.pop(node_id).close()
            for node_id, session_id in SESSIONS.silent(time.monotonic()):
                if await owns(shell, node_id):
                    await shell.tell(
                        pb.ReportNodeLostRequest(node_id=node_id, session_id=session_id)
                    )
        except (Failure, OSError) as error:
            shell.log.warning("lost nodes could not be told", reason=str(error))


async def owns(shell: "Shell", node_id: str) -> bool:
    """True if this process decides for the node's shard."""
    partition = partition_of(shard_of(node_id), shell.settings.partitions)
    address = await shell.store.owner_address(shell.service.topic, partition)
    return address == shell.address
