"""`loomos events append-file | batch`: many events of your own, into the log.

A file's events get ids made from its lines, so the same file once more appends nothing new.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from loomos.cli.amounts import time_text
from loomos.cli.door import Door, segment
from loomos.cli.events_append import Consistency, Organisation, leveled, path_of
from loomos.cli.show import Json, err, fields, number, out, print_json
from loomos.client.profile import Refused

__all__ = ["append_file", "batch"]

BATCH_BYTES_MAX = 3_000_000
EVENT_BYTES = 700
"""What an event takes in the log beside what it says, counted generously."""
POLL_S = 0.2
POLLS_MAX = 300


def append_file(
    file: Annotated[Path, typer.Argument(help="NDJSON, one event a line; - for standard input.")],
    events_per_batch: Annotated[int, typer.Option("--batch", min=1, max=1000)] = 200,
    background: Annotated[
        bool, typer.Option("--background", help="Hand batches over; they are appended soon after.")
    ] = False,
    consistency: Consistency = None,
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Append a file of events; each batch is appended whole or not at all.

    A line is an event as the API takes it: {"type": "job.completed", "payload": {…}, …}.

    Example: loomos events append-file run-7.ndjson
    """
    if background and consistency:
        told = "--consistency is for what is appended at once: leave out --background"
        raise Refused(0, "INVALID_ARGUMENT", told)
    began, totals = time.monotonic(), {"appended": 0, "duplicates": 0, "batches": 0}
    opened: Any = nullcontext(sys.stdin.buffer) if str(file) == "-" else stored(file)
    shown = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), console=err
    )
    with Door.open() as door, opened as source, shown as progress:
        task = progress.add_task("events", total=None)
        path = path_of(door, organisation, "event-batches" if background else "events/batch")
        for events, last_line in batches(source, events_per_batch):
            try:
                answer = door.call("POST", path, {"events": events} | leveled(consistency))
                if background:
                    answer = ended(door, f"{path}/{segment(answer['batch_id'])}")
            except Refused as refused:
                first = last_line - len(events) + 1
                told = f"lines {first} to {last_line}, nothing of them is appended: {refused}"
                raise Refused(refused.status, refused.code, told) from refused
            totals["appended"] += number(answer, "events_processed")
            totals["duplicates"] += number(answer, "duplicates")
            totals["batches"] += 1
            progress.update(task, advance=len(events))
    seconds = max(time.monotonic() - began, 1e-3)
    if as_json:
        print_json({**totals, "seconds": round(seconds, 3)})
        return
    done = totals["appended"] + totals["duplicates"]
    out.print(
        f"{totals['appended']} appended, {totals['duplicates']} were there already, "
        f"{totals['batches']} batches, {done / seconds:.0f} events/s"
    )


def batch(batch_id: str, organisation: Organisation = "", as_json: Json = False) -> None:
    """Show how far a batch is that was handed over.

    Example: loomos events batch batch-acme-24rbzez64xn4kgculpgh
    """
    with Door.open() as door:
        path = path_of(door, organisation, f"event-batches/{segment(batch_id)}")
        found = door.call("GET", path)
    if as_json:
        print_json(found)
        return
    fields(
        (
            ("batch", found["batch_id"]),
            ("state", "finished" if found.get("finished") else "pending"),
            ("events", found["events"]),
            ("pending", found.get("pending", 0)),
            ("appended", found.get("events_processed", 0)),
            ("there already", found.get("duplicates", 0)),
            ("took", f"{found.get('processing_time_ms', 0)} ms"),
            ("accepted", time_text(number(found, "accepted_at_us"))),
            *(
                (f"refused, event {one.get('index', 0)}", f"{one['event_id']}: {one['message']}")
                for one in found.get("refused", [])
            ),
        )
    )


def stored(file: Path) -> IO[bytes]:
    """The file, opened."""
    try:
        return file.open("rb")
    except OSError as error:
        told = f"{file} cannot be read: {error.strerror}"
        raise Refused(0, "INVALID_ARGUMENT", told) from error


def batches(source: IO[bytes], most: int) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """The file's events in batches, each with the number of its last line."""
    found: list[dict[str, Any]] = []
    size = 0
    line_number = 0
    for line_number, line in enumerate(source, start=1):
        if not line.strip():
            continue
        if found and (len(found) == most or size + len(line) + EVENT_BYTES > BATCH_BYTES_MAX):
            yield found, line_number - 1
            found, size = [], 0
        found.append(event_of(line, line_number))
        size += len(line) + EVENT_BYTES
    if found:
        yield found, line_number


def event_of(line: bytes, line_number: int) -> dict[str, Any]:
    """The event that a line says, with an id of its own."""
    try:
        event = json.loads(line)
    except ValueError as error:
        told = f"line {line_number} is not JSON: {error}"
        raise Refused(0, "INVALID_ARGUMENT", told) from error
    if not isinstance(event, dict):
        raise Refused(0, "INVALID_ARGUMENT", f"line {line_number} is no JSON object")
    if not event.get("event_id"):
        digest = hashlib.sha256(line.strip()).hexdigest()[:40]
        event["event_id"] = f"line-{line_number}-{digest}"
    if "payload" in event:
        # As text no digit of a number is lost on the way.
        event["payload_json"] = json.dumps(event.pop("payload"), ensure_ascii=False)
    return event


def ended(door: Door, path: str) -> dict[str, Any]:
    """A batch that was handed over, once nothing of it is pending."""
    for _ in range(POLLS_MAX):
        found = door.call("GET", path)
        if found.get("finished"):
            return found
        time.sleep(POLL_S)
    raise Refused(0, "DEADLINE_EXCEEDED", f"{path.rpartition('/')[2]} is still pending")
