"""One run on this node: its shim, what its job says, what it leaves, and what was told of it.

    PREPARED ──▶ RUNNING (shim lives) ──▶ ENDED (facts being collected) ──▶ TOLD (accepted)

1. Everything that is told can be told again from the run's folder, so an agent that was killed
   loses nothing; what was accepted is noted in `told.json` and not told twice.
2. A shim is known by pid and start time; one that is gone without an exit record was killed.
3. What the job reported is read line by line; a bad line is counted and logged, nothing more.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import structlog

from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as scheduler
from loomos.node_agent import artifacts, outcome, reports, shim, spare
from loomos.node_agent.outbox import Outbox
from loomos.node_agent.workplace import Place, write_durably

LOOK_SECONDS = 1.0
START_SECONDS_MAX = 30.0
REPORT_READ_BYTES = 1 << 20
METRICS_PER_REPORT_MAX = 256
CHECKPOINT_BYTES_MAX = 16 << 30
LAST_NUMBER = re.compile(r"(\d{1,15})\D*$")


class Run:
    """A run whose folder is prepared."""

    def __init__(self, place: Place, folder: Path, outbox: Outbox) -> None:
        self.place, self.folder, self.outbox = place, folder, outbox
        self.order = rm.StartRun.FromString((folder / "order.pb").read_bytes())
        self.id = self.order.allocation_id
        self.work = place.work_of(self.id)
        self.log = structlog.stdlib.get_logger("node-agent").bind(
            job_id=self.order.run.job_id, run=self.order.run.run
        )
        self.told: dict[str, Any] = _read_json(folder / "told.json") or {
            "started": False,
            "finished": False,
            "reports": 0,
            "checkpoints": {},
        }
        self.child = 0
        """Pid of the shim while it is a child of ours to bury; 0 for an adopted one."""
        self.read_to = int(self.told["reports"])
        self.known: set[str] = set(self.told["checkpoints"])
        self.finished = asyncio.Event()

    @property
    def over(self) -> bool:
        """True once nothing of the run can change any more."""
        return bool(self.told["finished"])

    @property
    def ended(self) -> bool:
        """True once no process of the run is left."""
        return (self.folder / "exit.json").exists() or self.over

    def read_log(self, offset: int, bytes_max: int) -> bytes:
        """A piece of the log file, or nothing."""
        try:
            with (self.folder / "job.log").open("rb") as file:
                file.seek(offset)
                return file.read(bytes_max)
        except FileNotFoundError:
            return b""

    def state(self) -> rm.RunState:
        """The run as a session's first report names it."""
        return rm.RunState(
            allocation_id=self.id,
            job_id=self.order.run.job_id,
            run=self.order.run.run,
            ended=self.ended,
        )

    def launch(self, waiting: spare.Spare) -> None:
        """Makes the spare this run's shim, or starts one."""
        errors = self.folder / "shim.err"
        self.child = waiting.take(self.folder) or spare.launch(str(self.folder), None, errors)

    def stop(self, grace_seconds: int) -> None:
        """Asks the job to checkpoint and end; after the grace period it is killed."""
        request = json.dumps({"grace_seconds": grace_seconds}).encode()
        write_durably(self.folder / "stop.json", request)
        descriptor = self._shim()
        if descriptor is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            os.close(descriptor)

    async def follow(self) -> None:
        """Tells what happens to the run until its end has been accepted."""
        await self._wait_started()
        descriptor = self._shim()
        if descriptor is not None:
            ended = asyncio.Event()
            loop = asyncio.get_running_loop()
            loop.add_reader(descriptor, ended.set)
            try:
                while not ended.is_set():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_SECONDS):
                            await ended.wait()
                    await self._look()
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)
        self._buried()
        await self._finish()
        await self.finished.wait()

    async def _wait_started(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        started = self.folder / "shim.json"
        while not started.exists() and time.monotonic() < deadline:
            if self._buried():
                break
            await asyncio.sleep(0.005)
        facts = _read_json(started)
        if facts is None or self.told["started"] or self._start_failed():
            return
        report = rm.ReportAllocationStartedRequest(
            allocation_id=self.id,
            run=self.order.run.run,
            pid=facts["job_pid"],
            isolation=",".join(facts["walls"]),
            started_at_us=facts["started_at_us"],
        )
        self.outbox.add(rm.NodeReport(started=report), self._started)

    def _buried(self) -> bool:
        """True if no child of ours is, or is any longer, the shim."""
        with contextlib.suppress(ChildProcessError):
            if self.child and os.waitpid(self.child, os.WNOHANG)[0] == 0:
                return False
        self.child = 0
        return True

    def _started(self, refusal: str) -> None:
        self._note(started=True)
        if refusal:
            # The books do not have this run any more: somebody else may have its place.
            self.log.warning("the run does not count and is stopped", refusal=refusal)
            self.stop(0)

    def _start_failed(self) -> bool:
        record = _read_json(self.folder / "exit.json")
        return record is not None and record["verdict"] == "start_failed"

    def _shim(self) -> int | None:
        """A descriptor of the living shim, or None if it is gone."""
        facts = _read_json(self.folder / "shim.json")
        if facts is None:
            return None
        try:
            descriptor = os.pidfd_open(facts["pid"])
        except OSError:
            return None
        # Checked while the descriptor is held: the pid cannot be given away in between.
        with contextlib.suppress(OSError):
            if shim.start_ticks(facts["pid"]) == facts["start_ticks"]:
                return descriptor
        os.close(descriptor)
        return None

    async def _look(self) -> None:
        """Reads new report lines and tells them; many make one report."""
        lines = await asyncio.to_thread(self._new_lines)
        progress = rm.ReportAllocationProgressRequest(allocation_id=self.id, run=self.order.run.run)
        notes: dict[str, reports.Checkpoint] = {}
        latest: dict[str, reports.Metric] = {}
        bad, refusal = 0, ""
        for line in lines:
            try:
                report = reports.parse(line)
            except reports.BadReport as error:
                bad += 1
                refusal = str(error)
                continue
            match report:
                case reports.Metric():
                    latest[report.name] = report
                case reports.Progress():
                    progress.progress_basis_points = report.basis_points
                case reports.Checkpoint():
                    notes[report.name] = report
            progress.epoch = max(progress.epoch, report.epoch)
            progress.step = max(progress.step, report.step)
        if bad:
            self.log.warning("reports refused", count=bad, last=refusal)
        for metric in list(latest.values())[:METRICS_PER_REPORT_MAX]:
            progress.metrics.add(**metric._asdict())
        if latest or progress.epoch or progress.step or progress.progress_basis_points:
            read_to = self.read_to
            self.outbox.add(rm.NodeReport(progress=progress), lambda _: self._note(reports=read_to))
        await self._tell_checkpoints(notes)

    def _new_lines(self) -> list[bytes]:
        try:
            with (self.folder / "reports.jsonl").open("rb") as file:
                file.seek(self.read_to)
                data = file.read(REPORT_READ_BYTES)
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.read_to += len(whole)
        return whole.splitlines()

    async def _tell_checkpoints(self, notes: dict[str, reports.Checkpoint]) -> None:
        for name in await asyncio.to_thread(self._complete_checkpoints):
            self.known.add(name)
            number = LAST_NUMBER.search(name)
            note = notes.get(name) or reports.Checkpoint(name, int(number[1]) if number else 0, 0)
            try:
                kept = await asyncio.to_thread(
                    artifacts.keep,
                    self.work / "checkpoints" / name,
                    self.place.store,
                    self.order.run.job_id,
                    CHECKPOINT_BYTES_MAX,
                )
            except (artifacts.BadArtifact, OSError) as error:
                self.log.warning("checkpoint refused", checkpoint=name, error=str(error))
                continue
            report = rm.ReportAllocationCheckpointRequest(
                allocation_id=self.id,
                run=self.order.run.run,
                checkpoint=scheduler.CheckpointRef(
                    path=kept.location,
                    sha256=kept.sha256,
                    size_bytes=kept.size_bytes,
                    epoch=note.epoch,
                    step=note.step,
                    run=self.order.run.run,
                ),
            )
            told = {**self.told["checkpoints"], name: kept.location}
            self.outbox.add(
                rm.NodeReport(checkpoint=report),
                lambda _, told=told: self._note(checkpoints=told),
            )

    def _complete_checkpoints(self) -> list[str]:
        """Those renamed into place and not told yet, oldest first."""
        found: list[tuple[int, str]] = []
        with contextlib.suppress(OSError), os.scandir(self.work / "checkpoints") as entries:
            for entry in entries:
                if entry.name not in self.known and reports.CHECKPOINT_NAME.fullmatch(entry.name):
                    found.append((entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
        return [name for _, name in sorted(found)]

    async def _finish(self) -> None:
        if self.over:
            self.finished.set()
            return
        await self._look()
        result = await asyncio.to_thread(self._result)
        report = rm.ReportAllocationFinishedRequest(
            allocation_id=self.id, run=self.order.run.run, result=result
        )
        self.log.info("run ended", outcome=result.outcome, exit_code=result.exit_code)
        self.outbox.add(rm.NodeReport(finished=report), self._accepted)

    def _accepted(self, refusal: str) -> None:
        if refusal:
            self.log.warning("the run's end does not count", refusal=refusal)
        self._note(finished=True)
        artifacts.remove(self.work)
        self.finished.set()

    def _result(self) -> scheduler.RunResult:
        record = _read_json(self.folder / "exit.json")
        if record is None:
            with contextlib.suppress(OSError):
                self.log.error("shim lost", said=(self.folder / "shim.err").read_text()[-400:])
            record = outcome.killed(self.folder, _read_json(self.folder / "shim.json"))
        result, details = outcome.result_of(record)
        if result.outcome != scheduler.RUN_OUTCOME_START_FAILED:
            details += self._keep_outputs(result)
        result.detail = outcome.told(details)
        return result

    def _keep_outputs(self, result: scheduler.RunResult) -> list[str]:
        """Takes the outputs over into the store; what to say if that failed."""
        maximum = self.order.run.spec.resources.storage_bytes or self.place.caps.disk_bytes
        try:
            kept = artifacts.keep(
                self.work / "output", self.place.store, self.order.run.job_id, maximum
            )
        except (artifacts.BadArtifact, OSError) as error:
            return [f"its outputs were not kept: {error}"]
        for file in kept.files:
            result.outputs.add(
                path=file.path,
                sha256=bytes.fromhex(file.sha256),
                size_bytes=file.size_bytes,
                location=f"{kept.location}/files/{file.path}",
            )
        return []

    def _note(self, **told: Any) -> None:
        self.told |= told
        write_durably(self.folder / "told.json", json.dumps(self.told).encode())


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
