"""`loomos bench submit`: from a researcher's request to his job's running process.

1. The platform idles: one job at a time, the next after the last has ended.
2. The end of the span is the time of the event by which the resource manager took the node's
   report of the running process; it and the client are one machine with one clock.
3. Nobody looks meanwhile: a look is work for the machine that is measured.
"""

import time
from typing import Any

from loomos.cli.bench.fleet import Fleet
from loomos.cli.bench.report import Report, percentile, single
from loomos.cli.demo import nodes
from loomos.cli.demo.people import PROJECT

__all__ = ["measure"]

BENCH = "submit"
JOBS = 40
WARMUP_JOBS = 3
ENDED = ("JOB_STATUS_COMPLETED", "JOB_STATUS_FAILED", "JOB_STATUS_CANCELLED")
JOB_SECONDS = 60.0
MEMORY_BYTES = 256 * 2**20
PAUSE_SECONDS = 1.0
UNWATCHED_SECONDS = 0.5


def measure(report: Report, platform: Fleet) -> None:
    """Both rows."""
    platform.join(nodes.THIRD)
    report.say(f"{JOBS} jobs, one after another")
    for _ in range(WARMUP_JOBS):
        submit_one(platform)
    waits = []
    for _ in range(JOBS):
        time.sleep(PAUSE_SECONDS)
        waits.append(submit_one(platform))
    report.add(single(BENCH, "running_p50", [percentile(waits, 50)], "ms"))
    report.add(single(BENCH, "running_p99", [percentile(waits, 99)], "ms"))


def submit_one(platform: Fleet) -> float:
    """Milliseconds from the request to the running process of one job."""
    spec = {
        "name": "bench",
        "command": ["/bin/true"],
        "resources": {"cpu_milli": 100, "memory_bytes": MEMORY_BYTES},
    }
    door = platform.stage.researcher
    asked_us = time.time_ns() // 1000
    receipt = door.call("POST", "/api/v1/jobs", {"project_id": PROJECT, "spec": spec})
    time.sleep(UNWATCHED_SECONDS)

    def look() -> dict[str, Any] | None:
        job = door.call("GET", f"/api/v1/jobs/{receipt['id']}")
        return job if job["status"] in ENDED else None

    job = platform.stage.wait(f"job {receipt['id']} did not end", look, JOB_SECONDS)
    return (int(job["started_at_us"]) - asked_us) / 1000
