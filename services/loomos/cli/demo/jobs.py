"""The story's jobs as a client writes them, and how each is submitted and followed.

The interpreter is the job's own choice. These take the one that runs the platform, because it has
scikit-learn; the agent shows its folder to the job, whose own user could not read it otherwise.
"""

import base64
import sys
from collections.abc import Sequence
from typing import Any

from loomos.cli.demo.people import PROJECT
from loomos.cli.demo.stage import Stage, examples, require
from loomos.cli.demo.watch import Watch

__all__ = [
    "BUDGET_MICRO_DOLLARS",
    "DATASET",
    "MODEL",
    "TRAINING",
    "finished",
    "reached",
    "spec",
    "submit",
]

GIB = 1 << 30
DATASET = "sklearn-digits"
MODEL = "digits"
TRAINING = ("--epochs", "40", "--rounds", "30", "--seed", "7")
BUDGET_MICRO_DOLLARS = 5_000_000
GRACE_SECONDS = 20


def spec(name: str, script: str, args: Sequence[str], gpus: int = 0, **more: Any) -> dict[str, Any]:
    """A job that runs one of the example scripts."""
    content = (examples() / script).read_bytes()
    resources = {"cpu_milli": 1000, "memory_bytes": 2 * GIB, "gpu_milli": 1000 * gpus}
    return {
        "name": name,
        "command": [sys.executable, script],
        "args": list(args),
        "inputs": [{"path": script, "content": base64.b64encode(content).decode()}],
        "resources": resources,
        "grace_period_seconds": GRACE_SECONDS,
        **more,
    }


def submit(stage: Stage, name: str, job: dict[str, Any]) -> Watch:
    """Submit a job as the researcher and follow it."""
    receipt = stage.researcher.call("POST", "/api/v1/jobs", {"project_id": PROJECT, "spec": job})
    stage.ids[name] = receipt["id"]
    stage.ids[f"{name}-story"] = receipt["correlation_id"]
    stage.watches[name] = Watch(stage.researcher, receipt["id"])
    return stage.watches[name]


def reached(watch: Watch, event_type: str, seconds: float, since: int = 0) -> dict[str, Any]:
    """The first event of a type after a version; NotHeld where it does not come."""
    found = watch.first(lambda one: one["event_type"] == event_type, seconds, since)
    last = watch.updates[-1]["text"] if watch.updates else "nothing"
    require(found is not None, f"no {event_type} after {seconds:.0f} s; the last was: {last}")
    assert found is not None
    return found


def finished(watch: Watch, seconds: float) -> dict[str, Any]:
    """The job's end, which must be a good one."""
    end = reached(watch, "job.finished", seconds)
    require(end["status"] == "JOB_STATUS_COMPLETED", f"{watch.job_id} ended: {end['text']}")
    return end
