"""The node's side of its session, against a resource manager that says what the test wants."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loom.kit.errors import Failure
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as scheduler
from loomos.node_agent.outbox import Outbox
from loomos.node_agent.runs import Runs, lease_clock
from loomos.node_agent.session import Session
from loomos.node_agent.workplace import Place

LEASE_SECONDS = 30


class Manager:
    """The other end of the stream: hands over reports, takes orders, can break."""

    def __init__(self) -> None:
        self.reports: asyncio.Queue[rm.NodeReport] = asyncio.Queue()
        self.orders: asyncio.Queue[rm.NodeOrder | None] = asyncio.Queue()
        self.epoch = 1
        self.offset = 0

    async def stream(
        self, reports: AsyncIterator[rm.NodeReport], *, method: str, shard: str
    ) -> AsyncIterator[rm.NodeOrder]:
        """What the client's stream would be."""
        assert (method, shard) == ("/loom.v1.ResourceManager/NodeSession", "local")

        async def listen() -> None:
            async for report in reports:
                self.reports.put_nowait(report)

        listening = asyncio.create_task(listen())
        try:
            while (order := await self.orders.get()) is not None:
                yield order
            raise Failure("UNAVAILABLE", "broken by the test")
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def order(self, **order: object) -> None:
        """Gives an order with the next token."""
        self.offset += 1
        token = rm.FencingToken(epoch=self.epoch, offset=self.offset)
        self.orders.put_nowait(rm.NodeOrder(token=token, **order))

    def reconcile(self, **facts: object) -> None:
        """Answers the hello."""
        self.order(reconcile=rm.Reconcile(lease_seconds=LEASE_SECONDS, **facts))

    async def hears(self, kind: str) -> rm.NodeReport:
        """The next report of this kind; heartbeats between are answered."""
        while True:
            report = await self.reports.get()
            if report.WhichOneof("report") == kind:
                return report
            if report.WhichOneof("report") == "heartbeat":
                lease = rm.LeaseExtended(heartbeat=report.heartbeat.number)
                self.orders.put_nowait(rm.NodeOrder(lease=lease))

    def accept(self, report: rm.NodeReport, refusal: str = "") -> None:
        """Tells the agent to forget a report."""
        accepted = rm.ReportAccepted(number=report.number, refusal=refusal)
        self.orders.put_nowait(rm.NodeOrder(accepted=accepted))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[tuple[Manager, Runs]]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    outbox = Outbox()
    runs = Runs(Place(home / "node", home / "artifacts", hide=home), outbox)
    manager = Manager()
    session = Session(manager, "local", runs, outbox)  # type: ignore[arg-type]
    holding = asyncio.create_task(session.hold())
    yield manager, runs
    for run in runs.runs.values():
        if not run.ended:
            run.stop(0)
            while not run.ended:
                await asyncio.sleep(0.02)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    await runs.close()


def start(allocation: str, *command: str) -> rm.StartRun:
    spec = scheduler.JobSpec(name="job", command=command)
    run = rm.RunSpec(job_id=f"job-{allocation}", run=1, spec=spec, runtime_seconds_left=100)
    return rm.StartRun(allocation_id=allocation, run=run)


async def test_a_fact_is_repeated_until_it_is_accepted(node: tuple[Manager, Runs]) -> None:
    manager, runs = node
    assert list((await manager.hears("hello")).hello.runs) == []
    manager.reconcile()
    manager.order(start=start("a-1", "sh", "-c", "exit 5"))
    first = await manager.hears("started")
    manager.accept(first)
    told = await manager.hears("finished")
    assert told.finished.result.exit_code == 5
    manager.orders.put_nowait(None)
    hello = (await manager.hears("hello")).hello
    assert [(run.allocation_id, run.ended) for run in hello.runs] == [("a-1", True)]
    assert hello.highest_token.offset == 2
    manager.reconcile(kept_allocation_ids=["a-1"])
    again = await manager.hears("finished")
    assert again == told
    manager.accept(again)
    manager.orders.put_nowait(None)
    assert list((await manager.hears("hello")).hello.runs) == []
    assert runs.runs["a-1"].over


async def test_an_old_order_is_not_obeyed(node: tuple[Manager, Runs]) -> None:
    manager, runs = node
    await manager.hears("hello")
    manager.epoch = 3
    manager.reconcile()
    manager.epoch = 2
    manager.order(start=start("a-old", "true"))
    manager.epoch = 3
    manager.order(start=start("a-new", "true"))
    assert (await manager.hears("started")).started.allocation_id == "a-new"
    assert "a-old" not in runs.runs


async def test_what_the_books_do_not_have_is_stopped(node: tuple[Manager, Runs]) -> None:
    manager, _ = node
    await manager.hears("hello")
    manager.reconcile()
    manager.order(start=start("a-1", "sleep", "1000"))
    manager.order(start=start("a-2", "sleep", "1000"))
    for _ in range(2):
        manager.accept(await manager.hears("started"))
    manager.orders.put_nowait(None)
    await manager.hears("hello")
    manager.reconcile(kept_allocation_ids=["a-2"])
    finished = (await manager.hears("finished")).finished
    assert finished.allocation_id == "a-1"
    assert finished.result.outcome == scheduler.RUN_OUTCOME_SIGNALLED


async def test_a_run_whose_start_is_refused_is_stopped(node: tuple[Manager, Runs]) -> None:
    manager, _ = node
    await manager.hears("hello")
    manager.reconcile()
    manager.order(start=start("a-1", "sleep", "1000"))
    manager.accept(await manager.hears("started"), "FAILED_PRECONDITION: an older run")
    assert (await manager.hears("finished")).finished.allocation_id == "a-1"


async def test_the_lease_runs_from_when_the_heartbeat_was_sent(node: tuple[Manager, Runs]) -> None:
    manager, runs = node
    await manager.hears("hello")
    manager.reconcile()
    beat = await manager.hears("heartbeat")
    heard_at = lease_clock()
    manager.orders.put_nowait(rm.NodeOrder(lease=rm.LeaseExtended(heartbeat=99)))
    manager.orders.put_nowait(rm.NodeOrder(lease=rm.LeaseExtended(heartbeat=beat.heartbeat.number)))
    # Answered at once and in order: by then the lease was extended.
    manager.orders.put_nowait(rm.NodeOrder(send_log=rm.SendLog(request_id="x", job_id="none")))
    await manager.hears("log")
    # The file holds whole milliseconds.
    assert float(runs.place.lease.read_text()) <= heard_at + LEASE_SECONDS + 0.001


async def test_a_log_is_followed_to_its_end(node: tuple[Manager, Runs]) -> None:
    manager, _ = node
    await manager.hears("hello")
    manager.reconcile()
    manager.order(start=start("a-1", "sh", "-c", "echo one; sleep 1; echo two"))
    await manager.hears("started")
    follow = rm.SendLog(request_id="r", job_id="job-a-1", offset=0, follow=True)
    manager.orders.put_nowait(rm.NodeOrder(send_log=follow))
    text, chunk = b"", rm.LogChunk()
    while not chunk.end:
        chunk = (await manager.hears("log")).log
        assert (chunk.request_id, chunk.offset) == ("r", len(text))
        text += chunk.data
    assert text == b"one\ntwo\n"
    manager.orders.put_nowait(rm.NodeOrder(send_log=rm.SendLog(request_id="x", job_id="none")))
    missing = (await manager.hears("log")).log
    assert missing.end
    assert "no log" in missing.error
