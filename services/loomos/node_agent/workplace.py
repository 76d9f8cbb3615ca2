"""Where one run lives on the node's disk, and what is put there before its job starts.

    runs/<allocation id>/   order.pb spec.json shim.json stop.json job.log reports.jsonl told.json
                            exit.json, all the agent's
    …/work/                 input/ checkpoints/ resume/ output/ tmp/ home/ report.sock, the job's

1. The order is written last and durably: a folder with an order is a run that may be started, one
   without is rubbish.
2. The job's environment is made here from nothing: the contract's names, then the job's own, which
   may not take the contract's place.
"""

import contextlib
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loom.v1 import resource_manager_pb2 as rm
from loomos.node_agent import artifacts
from loomos.node_agent.shim import WORK_MARK

MEBIBYTE = 1 << 20
FOLDERS = ("input", "checkpoints", "resume", "output", "tmp", "home")
HIGH_UIDS = (1_500_000_000, 400_000_000)
LOW_UIDS = (20_000, 40_000)


class Unstartable(Exception):
    """The run cannot be started here; says why."""


@dataclass(frozen=True, slots=True)
class Caps:
    """What every job on this node is held to where its order asks for nothing else."""

    log_bytes: int = 16 * MEBIBYTE
    report_bytes: int = 16 * MEBIBYTE
    disk_bytes: int = 4096 * MEBIBYTE
    processes: int = 512
    open_files: int = 4096


@dataclass(frozen=True, slots=True)
class Place:
    """The node's folders."""

    folder: Path
    """The agent's own state."""
    store: Path
    """Checkpoints and outputs, shared with the other nodes."""
    hide: Path
    """What no job may see."""
    work: Path | None = None
    """Where work folders lie instead of below the run; needed where mounts are not allowed."""
    caps: Caps = Caps()

    def run(self, allocation_id: str) -> Path:
        """The folder of a run."""
        if not artifacts.PART.fullmatch(allocation_id):
            raise Unstartable(f"allocation id {allocation_id!r} cannot name a folder")
        return self.folder / "runs" / allocation_id

    def work_of(self, allocation_id: str) -> Path:
        """The work folder of a run."""
        return (self.work / allocation_id) if self.work else self.run(allocation_id) / "work"

    @property
    def lease(self) -> Path:
        """The file that holds the end of the node's lease, seconds of the boot clock."""
        return self.folder / "lease"


def prepare(place: Place, order: rm.StartRun) -> Path:
    """Makes the run's folders, inputs, resume point and spec; the run's folder."""
    folder = place.run(order.allocation_id)
    work = place.work_of(order.allocation_id)
    artifacts.remove(work)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    work.mkdir(parents=True, mode=0o700)
    for name in FOLDERS:
        (work / name).mkdir(mode=0o700)
    _write_inputs(work / "input", order)
    if order.run.HasField("resume_from"):
        checkpoint = order.run.resume_from
        try:
            artifacts.fetch(place.store, checkpoint.path, checkpoint.sha256, work / "resume")
        except (artifacts.BadArtifact, OSError) as error:
            raise Unstartable(f"the checkpoint cannot be resumed from: {error}") from error
    uid = _own_uid(order.allocation_id)
    if uid is not None:
        _give(work, uid)
    spec = json.dumps(_spec(place, order, work, uid))
    # Only a process that outlives no power cut reads it.
    (folder / "spec.json").write_text(spec)
    write_durably(folder / "order.pb", order.SerializeToString(deterministic=True))
    return folder


def write_durably(path: Path, content: bytes) -> None:
    """Replaces a file so that it is whole and stays, whatever happens."""
    scratch = path.with_name(path.name + ".new")
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def _write_inputs(folder: Path, order: rm.StartRun) -> None:
    for given in order.run.spec.inputs:
        parts = given.path.split("/")
        if not all(artifacts.PART.fullmatch(part) for part in parts):
            raise Unstartable(f"input path {given.path!r} leaves the input folder or is malformed")
        if given.sha256 and hashlib.sha256(given.content).digest() != given.sha256:
            raise Unstartable(f"input {given.path!r} does not have the digest it was given")
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(given.content)
        path.chmod(0o700)


def _spec(place: Place, order: rm.StartRun, work: Path, uid: int | None) -> dict[str, Any]:
    job, caps = order.run.spec, place.caps
    disk_bytes = job.resources.storage_bytes or caps.disk_bytes
    return {
        "argv": _command(job, work),
        "environment": _environment(order),
        "work": str(work),
        "uid": uid,
        "hide": [str(place.hide)],
        "expose": sorted({sys.base_prefix, sys.prefix}),
        "limits": {
            "processes": caps.processes,
            "open_files": caps.open_files,
            "file_bytes": disk_bytes,
            "address_space_bytes": 0,
        },
        "memory_bytes_max": job.resources.memory_bytes,
        "disk_bytes_max": disk_bytes,
        "log_bytes_max": caps.log_bytes,
        "report_bytes_max": caps.report_bytes,
        "runtime_seconds_max": order.run.runtime_seconds_left,
        "grace_seconds": job.grace_period_seconds or 30,
        "lease": "" if job.survive_disconnect else str(place.lease),
    }


def _command(job: Any, work: Path) -> list[str]:
    program, *rest = [*job.command, *job.args]
    if not program.startswith("/") and (work / "input" / program).is_file():
        program = f"{WORK_MARK}/input/{program}"
    return [program, *rest]


def _environment(order: rm.StartRun) -> dict[str, str]:
    job = order.run.spec
    gpus = ",".join(order.gpu_uuids)
    contract = {
        "LOOMOS_JOB_ID": order.run.job_id,
        "LOOMOS_RUN": str(order.run.run),
        "LOOMOS_INPUT_DIR": f"{WORK_MARK}/input",
        "LOOMOS_CHECKPOINT_DIR": f"{WORK_MARK}/checkpoints",
        "LOOMOS_OUTPUT_DIR": f"{WORK_MARK}/output",
        "LOOMOS_REPORT": f"{WORK_MARK}/report.sock",
    }
    if order.run.HasField("resume_from"):
        contract["LOOMOS_RESUME_DIR"] = f"{WORK_MARK}/resume/files"
    if job.checkpoint_interval_seconds:
        contract["LOOMOS_CHECKPOINT_INTERVAL_SECONDS"] = str(job.checkpoint_interval_seconds)
    usual = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": f"{WORK_MARK}/home",
        "TMPDIR": f"{WORK_MARK}/tmp",  # noqa: S108 - below the work folder
        "LANG": "C.UTF-8",
        # Output is followed live; a block-buffered line would come minutes late.
        "PYTHONUNBUFFERED": "1",
    }
    own = {name: value for name, value in job.env.items() if not name.startswith("LOOMOS_")}
    return usual | own | {"CUDA_VISIBLE_DEVICES": gpus, "NVIDIA_VISIBLE_DEVICES": gpus} | contract


def _own_uid(allocation_id: str) -> int | None:
    """A user of its own for the run, derived from its id; None where we may not change users."""
    if os.geteuid() != 0:
        return None
    first, count = HIGH_UIDS if _mapped(sum(HIGH_UIDS)) else LOW_UIDS
    offset = int.from_bytes(hashlib.sha256(allocation_id.encode()).digest()[:8]) % count
    taken = _live_uids()
    while first + offset in taken:
        offset = (offset + 1) % count
    return first + offset


def _mapped(uid: int) -> bool:
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return any(int(start) <= uid < int(start) + int(length) for start, _, length in ranges)


def _live_uids() -> set[int]:
    found: set[int] = set()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                found.add(process.stat().st_uid)
    return found


def _give(folder: Path, uid: int) -> None:
    for parent, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            os.chown(Path(parent) / name, uid, uid, follow_symlinks=False)
