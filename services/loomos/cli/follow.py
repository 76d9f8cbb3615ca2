"""`loomos follow | top` and a job's log: what happens while it happens."""

import base64
import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loomos.cli.amounts import bytes_text, milli_text, time_text
from loomos.cli.door import Door, segment
from loomos.cli.show import Json, number, out, print_json, printable, short
from loomos.client.profile import Refused

__all__ = ["ENDED", "follow", "follow_to_end", "job_log", "top"]

ENDED = ("JOB_STATUS_COMPLETED", "JOB_STATUS_FAILED", "JOB_STATUS_CANCELLED")
TOP_JOBS = 30
BASIS_POINTS = 10_000


def follow(job_id: str, as_json: Json = False) -> None:
    """Show everything that happens to a job until it ends; exit status 1 unless it completes.

    Example: loomos follow job-local-…
    """
    with Door.open() as door:
        if follow_to_end(door, job_id, as_json) != "JOB_STATUS_COMPLETED":
            raise typer.Exit(1)


def follow_to_end(door: Door, job_id: str, as_json: bool) -> str:
    """The status in which the job ended; after a break it goes on where it was."""
    seen, status, failures = 0, "", 0
    while status not in ENDED:
        try:
            for update in door.lines(f"/api/v1/jobs/{segment(job_id)}/events"):
                failures = 0
                if number(update, "version") <= seen:
                    continue
                seen = number(update, "version")
                if short(update.get("status"), "JOB_STATUS_") != "UNSPECIFIED":
                    status = str(update.get("status"))
                show_update(update, as_json)
        except Refused as refused:
            failures += 1
            if refused.code != "UNAVAILABLE" or failures > 10:
                raise
        if status not in ENDED:
            time.sleep(0.5)
    return status


def show_update(update: dict[str, Any], as_json: bool) -> None:
    """One thing that happened."""
    if as_json:
        print_json(update)
        return
    metrics = " ".join(
        f"{one['name']}={one.get('value', 0):.4g}" for one in update.get("metrics", [])
    )
    progress = number(update, "progress_basis_points")
    status = short(update.get("status"), "JOB_STATUS_").replace("UNSPECIFIED", "")
    share = f" {100 * progress / BASIS_POINTS:.0f} %" if progress else ""
    out.print(
        f"[dim]{time_text(number(update, 'at_us'))}[/dim] "
        f"[bold]{status:<13}[/bold] "
        f"{escape(printable(update.get('text', '')))}{share} {escape(printable(metrics))} "
        f"[dim]{escape(printable(update.get('event_id', '')))}[/dim]",
        soft_wrap=True,
    )


def job_log(job_id: str, on: bool, run: int = 0) -> None:
    """Write a job's log to standard output, byte for byte."""
    params = {"follow": str(on).lower()} | ({"run": run} if run else {})
    with Door.open() as door:
        for chunk in door.lines(f"/api/v1/jobs/{segment(job_id)}/logs", params):
            if chunk.get("error"):
                raise Refused(0, "UNAVAILABLE", str(chunk["error"]))
            sys.stdout.buffer.write(base64.b64decode(chunk.get("data", "")))
            sys.stdout.buffer.flush()


def top(
    every: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    as_json: Json = False,
) -> None:
    """Show the cluster and what runs on it, again and again; Ctrl-C ends it."""
    with Door.open() as door:
        if once or as_json:
            while True:
                seen = look(door)
                if as_json:
                    print_json(seen)
                else:
                    out.print(drawn(seen))
                if once:
                    return
                time.sleep(every)
        with Live(drawn(look(door)), console=out, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(every)
                live.update(drawn(look(door)), refresh=True)


def look(door: Door) -> dict[str, Any]:
    """The cluster, its jobs and its queue, now."""
    running = {"statuses": "JOB_STATUS_RUNNING", "page_size": TOP_JOBS}
    try:
        cluster = door.call("GET", "/api/v1/cluster/metrics")
    except Refused as refused:
        # A researcher sees jobs, not machines.
        if refused.code != "PERMISSION_DENIED":
            raise
        cluster = {}
    return {
        "cluster": cluster,
        "running": door.call("GET", "/api/v1/jobs", params=running).get("jobs", []),
        "queue": door.call("GET", "/api/v1/queue", params={"page_size": TOP_JOBS}),
        "at_us": time.time_ns() // 1000,
    }


def drawn(seen: dict[str, Any]) -> RenderableType:
    """One look as a page."""
    cluster = seen["cluster"]
    capacity, taken = cluster.get("capacity") or {}, cluster.get("allocated") or {}
    waiting = number(seen["queue"], "waiting")
    machines = ""
    if cluster:
        machines = (
            f"nodes {cluster.get('nodes_ready', 0)}/{cluster.get('nodes', 0)} ready   GPUs "
            f"{cluster.get('gpus_allocated', 0)}/{cluster.get('gpus_healthy', 0)}   CPU "
            f"{milli_text(number(taken, 'cpu_milli'))}/{milli_text(number(capacity, 'cpu_milli'))}"
            f"   memory {bytes_text(number(taken, 'memory_bytes'))}/"
            f"{bytes_text(number(capacity, 'memory_bytes'))}   "
        )
    told = f"jobs {len(seen['running'])} running, {waiting} waiting"
    head = Text(f"{time_text(seen['at_us'])}   {machines}{told}\n")
    jobs = Table("running", "name", "project", "priority", "node", "epoch", "done", box=None)
    for job in seen["running"]:
        share = 100 * number(job, "progress_basis_points") / BASIS_POINTS
        cells = (
            job["job_id"],
            (job.get("spec") or {}).get("name", ""),
            job.get("project_id"),
            job.get("priority"),
            job.get("node_id"),
            job.get("epoch"),
            f"{share:.0f} %",
        )
        jobs.add_row(*(escape(printable(cell)) for cell in cells))
    queue = Table("waiting", "name", "priority", "why", box=None)
    for entry in seen["queue"].get("entries", []):
        reason = short(entry.get("reason"), "UNPLACED_REASON_")
        cells = (entry.get("job_id"), entry.get("name"), entry.get("priority"), reason)
        queue.add_row(*(escape(printable(cell)) for cell in cells))
    return Group(head, jobs, Text(""), queue)
