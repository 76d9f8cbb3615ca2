"""All runs of this node: started once, stopped, adopted after a restart, and kept for their logs.

1. An order is obeyed only if its fencing token is not below the highest ever obeyed, and that one
   is on disk before anything is done.
2. An order for a run whose folder exists starts nothing again.
3. A restarted agent finds its runs in their folders: living shims are followed on, ended ones told.
"""

import asyncio
import time
from pathlib import Path

import structlog

from loom.v1 import resource_manager_pb2 as rm
from loomos.node_agent import artifacts, workplace
from loomos.node_agent.outbox import Outbox
from loomos.node_agent.outcome import unstartable
from loomos.node_agent.run import Run
from loomos.node_agent.spare import Spare
from loomos.node_agent.workplace import Place, Unstartable

KEPT_RUNS_MAX = 200
SPARE_PAUSE_SECONDS = 1.0
Token = tuple[int, int, int]


class Runs:
    """The node's runs; used from one event loop."""

    def __init__(self, place: Place, outbox: Outbox) -> None:
        self.place, self.outbox = place, outbox
        self.log = structlog.stdlib.get_logger("node-agent")
        (place.folder / "runs").mkdir(parents=True, exist_ok=True, mode=0o700)
        place.store.mkdir(parents=True, exist_ok=True, mode=0o700)
        if place.work is not None:
            place.work.mkdir(parents=True, exist_ok=True, mode=0o711)
        self.token_file = place.folder / "fencing-token"
        self.token: Token = self._read_token()
        self.runs: dict[str, Run] = {}
        # Runs being prepared, and the grace of stops that came meanwhile.
        self.starting: dict[str, rm.StartRun] = {}
        self.stops: dict[str, int] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.spare = Spare(place.folder / "runs")

    def adopt(self) -> None:
        """Takes up the runs that an earlier agent of this node left."""
        for folder in sorted((self.place.folder / "runs").iterdir()):
            if not (folder / "order.pb").exists():
                artifacts.remove(folder)
                continue
            run = Run(self.place, folder, self.outbox)
            self.runs[run.id] = run
            if not run.over:
                self.log.info("run adopted", allocation_id=run.id)
                self._follow(run)
        self.spare.prepare()

    def states(self) -> list[rm.RunState]:
        """Every run whose end was not accepted yet."""
        prepared = [
            rm.RunState(allocation_id=one, job_id=order.run.job_id, run=order.run.run)
            for one, order in self.starting.items()
        ]
        return [run.state() for run in self.runs.values() if not run.over] + prepared

    def fence(self, token: rm.FencingToken) -> bool:
        """False for an order older than one obeyed before; else its token is on disk now."""
        given = (token.incarnation, token.epoch, token.offset)
        if given < self.token:
            self.log.warning("old order refused", token=given, highest=self.token)
            return False
        if given > self.token:
            workplace.write_durably(self.token_file, " ".join(map(str, given)).encode())
            self.token = given
        return True

    def start(self, order: rm.StartRun) -> None:
        """Starts a run in the background, unless this node has, or had, it."""
        if order.allocation_id not in self.runs and order.allocation_id not in self.starting:
            self.starting[order.allocation_id] = order
            self._keep(asyncio.create_task(self._start(order)))

    def stop(self, allocation_id: str, grace_seconds: int) -> None:
        """Stops a run; one that is unknown or over needs no stopping."""
        if allocation_id in self.starting:
            self.stops[allocation_id] = grace_seconds
        run = self.runs.get(allocation_id)
        if run is not None and not run.over:
            run.stop(grace_seconds)

    def extend_lease(self, until: float) -> None:
        """Lets jobs run on until this moment of the boot clock; their shims look at it."""
        scratch = self.place.lease.with_name("lease.new")
        scratch.write_text(f"{until:.3f}")
        scratch.replace(self.place.lease)

    def log_of(self, job_id: str, run: int) -> Run | None:
        """The run of a job whose log is wanted; run 0 means the latest."""
        found = [
            one
            for one in self.runs.values()
            if one.order.run.job_id == job_id and run in (0, one.order.run.run)
        ]
        return max(found, key=lambda one: one.order.run.run, default=None)

    async def close(self) -> None:
        """Stops following; the jobs go on."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.spare.close()

    async def _start(self, order: rm.StartRun) -> None:
        try:
            folder = await asyncio.to_thread(workplace.prepare, self.place, order)
            run = Run(self.place, folder, self.outbox)
            run.launch(self.spare)
        except (Unstartable, OSError) as error:
            self.log.warning("no start", allocation_id=order.allocation_id, error=str(error))
            self.outbox.add(unstartable(order, error), lambda _: None)
            return
        finally:
            del self.starting[order.allocation_id]
            grace_seconds = self.stops.pop(order.allocation_id, None)
        self.runs[run.id] = run
        if grace_seconds is not None:
            run.stop(grace_seconds)
        self._follow(run)
        self._keep(asyncio.create_task(self._prepare_spare()))
        self._forget()

    async def _prepare_spare(self) -> None:
        # Not at once: the run that has just begun needs the processor more.
        await asyncio.sleep(SPARE_PAUSE_SECONDS)
        self.spare.prepare()

    def _follow(self, run: Run) -> None:
        self._keep(asyncio.create_task(run.follow()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.log.error("following a run failed", error=error)

    def _forget(self) -> None:
        """Removes the folders of the oldest runs that are over, logs included."""
        over = [run for run in self.runs.values() if run.over]
        over.sort(key=lambda run: run.folder.stat().st_mtime_ns)
        for run in over[: max(0, len(over) - KEPT_RUNS_MAX)]:
            artifacts.remove(run.folder)
            del self.runs[run.id]

    def _read_token(self) -> Token:
        try:
            incarnation, epoch, offset = map(int, self.token_file.read_text().split())
        except FileNotFoundError:
            return (0, 0, 0)
        return (incarnation, epoch, offset)


def lease_clock() -> float:
    """Seconds of the clock in which leases are counted: it runs on through suspends."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Names the life of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
