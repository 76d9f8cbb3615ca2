"""How a run ended, from the records of its shim, in the words of the contract."""

import hashlib
import signal
import time
from pathlib import Path
from typing import Any

from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as scheduler

DETAIL_CHARACTERS_MAX = 1000
LIMITS = {
    "runtime_exceeded": "it ran longer than it may",
    "disk_exceeded": "its work folder grew beyond its disk cap",
    "memory_exceeded": "its processes together used more memory than it asked for",
}


def result_of(record: dict[str, Any]) -> tuple[scheduler.RunResult, list[str]]:
    """The result that an exit record tells, and what people should know of it."""
    result = scheduler.RunResult(
        exit_code=record["exit_code"],
        log_sha256=bytes.fromhex(record["log_sha256"]),
        log_bytes=record["log_bytes"],
        cpu_ms=record["cpu_microseconds"] // 1000,
        memory_bytes_peak=record["memory_bytes_peak"],
        started_at_us=record["started_at_us"],
        ended_at_us=record["finished_at_us"],
    )
    details: list[str] = []
    if record["verdict"] == "start_failed":
        result.outcome = scheduler.RUN_OUTCOME_START_FAILED
        result.started_at_us = 0
        details.append(record["error"])
    elif record["verdict"] in LIMITS:
        result.outcome = scheduler.RUN_OUTCOME_LIMIT_EXCEEDED
        details.append(LIMITS[record["verdict"]])
    elif record["verdict"] == "lease_ended" and (record["signal"] or record["exit_code"]):
        # The node was out of reach: the job did nothing wrong and goes on from its checkpoint.
        result.outcome = scheduler.RUN_OUTCOME_NODE_LOST
    elif record["signal"]:
        result.outcome = scheduler.RUN_OUTCOME_SIGNALLED
    else:
        result.outcome = scheduler.RUN_OUTCOME_EXITED
    if record["signal"]:
        result.exit_code = 128 + record["signal"]
        details.append(f"ended by signal {record['signal']}")
    if record["verdict"] == "lease_ended":
        details.append("stopped because the node's lease was over")
    if record["log_bytes_dropped"]:
        details.append(f"{record['log_bytes_dropped']} bytes of its log were dropped")
    return result, details


def killed(folder: Path, facts: dict[str, Any] | None) -> dict[str, Any]:
    """The record of a shim that could not write one: it was killed, and its job with it."""
    try:
        kept = (folder / "job.log").read_bytes()
    except OSError:
        kept = b""
    return {
        "verdict": "start_failed" if facts is None else "exited",
        "error": "its supervising process could not start" if facts is None else "",
        "exit_code": 127 if facts is None else 0,
        "signal": 0 if facts is None else signal.SIGKILL.value,
        "cpu_microseconds": 0,
        "memory_bytes_peak": 0,
        "started_at_us": 0 if facts is None else facts["started_at_us"],
        "finished_at_us": time.time_ns() // 1000,
        "log_bytes": len(kept),
        "log_bytes_dropped": 0,
        "log_sha256": hashlib.sha256(kept).hexdigest(),
    }


def unstartable(order: rm.StartRun, error: Exception) -> rm.NodeReport:
    """The report of a run that could not even be prepared."""
    result = scheduler.RunResult(
        outcome=scheduler.RUN_OUTCOME_START_FAILED,
        exit_code=127,
        detail=told([str(error)]),
        ended_at_us=time.time_ns() // 1000,
    )
    finished = rm.ReportAllocationFinishedRequest(
        allocation_id=order.allocation_id, run=order.run.run, result=result
    )
    return rm.NodeReport(finished=finished)


def told(details: list[str]) -> str:
    """The details as one bounded sentence."""
    return "; ".join(details)[:DETAIL_CHARACTERS_MAX]
