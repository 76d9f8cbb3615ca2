"""`loomos jobs | job | why | queue | cancel | pause | resume`: jobs as they stand."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from loomos.cli.amounts import bytes_text, dollars_text, milli_text, seconds_text, time_text
from loomos.cli.door import AsOf, Door, segment
from loomos.cli.follow import follow, top
from loomos.cli.show import (
    Json,
    done,
    fields,
    listing,
    number,
    out,
    print_json,
    printable,
    short,
    table,
)
from loomos.cli.submit import submit

__all__ = ["add_to"]

STATUSES = (
    "pending",
    "queued",
    "scheduled",
    "starting",
    "running",
    "paused",
    "checkpointing",
    "preempted",
    "completed",
    "failed",
    "cancelled",
    "migrating",
)


def add_to(app: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (submit, jobs, job, why, queue, follow, top, cancel, pause, resume):
        app.command()(command)


def jobs(
    project: Annotated[str, typer.Option(help="Only this project's.")] = "",
    status: Annotated[
        list[str] | None, typer.Option(help="Only those in this state; again for each.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000)] = 100,
    as_of: AsOf = "",
    as_json: Json = False,
) -> None:
    """List jobs, newest first. Example: loomos jobs --project acme.vision --status running"""
    params: dict[str, Any] = {"page_size": min(limit, 1000)}
    if project:
        params["project_id"] = project
    if status:
        params["statuses"] = [status_of(one) for one in status]
    with Door.open(as_of=as_of) as door:
        found = listed(door, params, limit)
    rows = (
        (
            one["job_id"],
            (one.get("spec") or {}).get("name", ""),
            one.get("project_id", ""),
            short(one.get("status"), "JOB_STATUS_"),
            one.get("priority", 0),
            one.get("run", 0),
            one.get("epoch", 0),
            time_text(number(one, "submitted_at_us")),
        )
        for one in found
    )
    columns = ("job", "name", "project", "status", "priority", "run", "epoch", "submitted")
    listing(found, as_json, columns, rows, "no job that you may see")


def job(job_id: str, as_of: AsOf = "", as_json: Json = False) -> None:
    """Show one job."""
    with Door.open(as_of=as_of) as door:
        found = door.call("GET", f"/api/v1/jobs/{segment(job_id)}")
    if as_json:
        print_json(found)
        return
    spec, result = found.get("spec") or {}, found.get("result") or {}
    checkpoint = found.get("checkpoint") or {}
    outcome = short(result.get("outcome"), "RUN_OUTCOME_")
    ended = f"{outcome}, exit code {result.get('exit_code', 0)} {result.get('detail', '')}"
    budget = number(spec, "budget_micro_dollars")
    waits = short(found.get("reason"), "UNPLACED_REASON_") != "UNSPECIFIED"
    fields(
        (
            ("job", found["job_id"]),
            ("name", spec.get("name")),
            ("project", found.get("project_id")),
            ("status", short(found.get("status"), "JOB_STATUS_")),
            ("waits because" if waits else "note", found.get("reason_detail", "")),
            ("place in the queue", number(found, "queue_position") or ""),
            ("command", " ".join([*spec.get("command", []), *spec.get("args", [])])),
            ("resources", resources_text(spec.get("resources") or {}, spec.get("gpu_model", ""))),
            ("priority", f"{short(spec.get('priority'), 'PRIORITY_CLASS_')} {found['priority']}"),
            ("budget", dollars_text(budget) if budget else ""),
            ("longest runtime", seconds_text(number(spec, "max_runtime_seconds"))),
            ("dataset", spec.get("dataset_id")),
            ("data", short(spec.get("classification"), "DATA_CLASSIFICATION_").lower()),
            ("submitted", time_text(number(found, "submitted_at_us"))),
            ("submitted by", found.get("submitted_by")),
            ("first started", time_text(number(found, "started_at_us"))),
            ("ended", time_text(number(found, "finished_at_us"))),
            ("run", found.get("run")),
            ("node", found.get("node_id")),
            ("isolation", found.get("isolation")),
            ("preempted", f"{found.get('preemptions', 0)} times"),
            ("epoch", found.get("epoch")),
            ("metrics", metrics_text(found.get("metrics", []))),
            (
                "checkpoint",
                f"epoch {checkpoint['epoch']}: {checkpoint['path']}" if checkpoint else "",
            ),
            ("last run", ended if result else ""),
            ("story", f"loomos audit story {found.get('correlation_id')}"),
        )
    )


def why(job_id: str, as_of: AsOf = "", as_json: Json = False) -> None:
    """Say why a job is where it is; each statement with the event that proves it."""
    with Door.open(as_of=as_of) as door:
        found = door.call("GET", f"/api/v1/jobs/{segment(job_id)}/why")
    if as_json:
        print_json(found)
        return
    out.print(f"[bold]{escape(printable(found.get('summary', '')))}[/bold]", soft_wrap=True)
    rows = (
        (
            time_text(number(fact, "at_us")),
            fact.get("event_type", ""),
            fact.get("text", ""),
            fact.get("event_id", ""),
            " ".join(filter(None, (fact.get("other_job_id"), fact.get("other_event_id")))),
        )
        for fact in found.get("facts", [])
    )
    table(
        ("when", "event", "what", "event id", "other job, its event"), rows, "nothing happened yet"
    )


def queue(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    as_of: AsOf = "",
    as_json: Json = False,
) -> None:
    """Show who waits, in the order in which a round looks at them."""
    with Door.open(as_of=as_of) as door:
        found = door.call("GET", "/api/v1/queue", params={"page_size": limit})
    entries = found.get("entries", [])
    rows = (
        (
            one.get("position"),
            one.get("job_id") or "(not yours)",
            one.get("name", ""),
            one.get("priority", 0),
            resources_text(one.get("resources") or {}, ""),
            short(one.get("reason"), "UNPLACED_REASON_"),
            time_text(number(one, "submitted_at_us")),
        )
        for one in entries
    )
    columns = ("place", "job", "name", "priority", "asks for", "why", "since")
    listing(entries, as_json, columns, rows, "nobody waits")


def cancel(
    job_id: str,
    note: Annotated[str, typer.Option(help="A sentence for the record.")] = "",
    as_json: Json = False,
) -> None:
    """End a job: a waiting one at once, a running one with its grace period."""
    order(job_id, "cancel", {"note": note}, as_json)


def pause(job_id: str, as_json: Json = False) -> None:
    """Checkpoint a job and give its place back until it is resumed."""
    order(job_id, "pause", {}, as_json)


def resume(job_id: str, as_json: Json = False) -> None:
    """Put a paused job back into the queue."""
    order(job_id, "resume", {}, as_json)


def order(job_id: str, verb: str, body: dict[str, Any], as_json: bool) -> None:
    """Tell a job something."""
    with Door.open() as door:
        answer = door.call("POST", f"/api/v1/jobs/{segment(job_id)}/{verb}", body)
    done(f"{job_id}: {verb} asked for", answer, as_json)


def listed(door: Door, params: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    """The first `limit` jobs of a list, page by page."""
    found: list[dict[str, Any]] = []
    while len(found) < limit:
        page = door.call("GET", "/api/v1/jobs", params=params)
        found += page.get("jobs", [])
        if not page.get("next_page_token"):
            break
        params["page_token"] = page["next_page_token"]
    return found[:limit]


def status_of(text: str) -> str:
    """A state in the contract's words."""
    if text.lower() not in STATUSES:
        raise typer.BadParameter(
            f"{text!r} is no state: want {', '.join(STATUSES)}", param_hint="--status"
        )
    return f"JOB_STATUS_{text.upper()}"


def resources_text(resources: dict[str, Any], gpu_model: str) -> str:
    """Amounts in one line."""
    parts = [
        f"{milli_text(number(resources, 'cpu_milli'))} CPU",
        bytes_text(number(resources, "memory_bytes")),
    ]
    if number(resources, "gpu_milli"):
        parts.append(f"{milli_text(number(resources, 'gpu_milli'))} GPU {gpu_model}".strip())
    return ", ".join(parts)


def metrics_text(metrics: list[dict[str, Any]]) -> str:
    """Measured values in one line."""
    return "  ".join(f"{one['name']} {one.get('value', 0):.4g}" for one in metrics)
