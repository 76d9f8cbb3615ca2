"""`loomos archive`: old log in object storage.

1. `run` and `list` ask the gateway, so Cedar decides who may.
2. `restore` and `events` read the archive itself, for who holds the home, and need no broker.
"""

import base64
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loom.kit.config import Settings
from loomos.cli import archive_verify
from loomos.cli.archive_verify import depot_in, named
from loomos.cli.audit_verify import Key, fail, public_key
from loomos.cli.door import Door
from loomos.cli.show import Json, err, listing, number, out, print_json

if TYPE_CHECKING:
    # Slow to import, and no other command of `loomos` needs it.
    from loom.log.archive import Manifest
    from loom.log.depot import Depot
    from loom.log.parquet import Archived

__all__ = ["archive", "day_of", "depot_in"]

archive = typer.Typer(help="Old log in object storage.", no_args_is_help=True)
archive_verify.add_to(archive)

PLATFORM = "/api/v1/organisations/platform/archive"
TRAIL = "/api/v1/organisations/platform/audit/events"
LOOK_S = 1.0
WAIT_S = 120.0

Topic = Annotated[str, typer.Option(help="Only this topic, e.g. loomos.scheduler.")]
Partition = Annotated[int, typer.Option(help="Only this partition, with --topic; -1 means all.")]


@archive.command("run")
def run(
    topic: Topic = "",
    partition: Partition = -1,
    young_too: Annotated[
        bool, typer.Option("--young-too", help="Also what is younger than the rules say.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Have the archiver run now, and show what it archives.

    Example: loomos archive run --topic loomos.scheduler --young-too
    """
    with Door.open() as door:
        before = told_ranges(door, topic)
        body = {"topic": topic, "partition": partition, "young_too": young_too}
        run_id = str(door.call("POST", f"{PLATFORM}/runs", body)["id"])
        ran = ended(door, run_id, time.monotonic() + WAIT_S)
        now = told_ranges(door, topic)
    for place in sorted(set(now) - set(before)):
        show_range(now[place], as_json)
    if ran is None:
        fail(f"{run_id} is not done after {WAIT_S:.0f} s; it goes on: see `loomos archive list`")
    if not as_json:
        told = f"{number(ran, 'archived')} ranges were archived, {number(ran, 'rewritten')} anew"
        err.print(f"{run_id}: {told}", markup=False)
    if ran.get("failed"):
        fail(f"left as they are, see the log of loomdb: {', '.join(ran['failed'])}")


@archive.command("list")
def list_ranges(topic: Topic = "", as_json: Json = False) -> None:
    """Show what is archived. Example: loomos archive list --topic loomos.data"""
    with Door.open() as door:
        page = door.call("GET", PLATFORM, params={"topic": topic})
    begins = {
        (one["topic"], one.get("partition", 0)): number(one, "offset")
        for one in page.get("beginnings", [])
    }
    rows = (
        (
            f"{one['topic']}/{one.get('partition', 0)}",
            f"{number(one, 'first_offset')}–{number(one, 'next_offset') - 1}",
            one.get("rows", 0),
            one.get("deleted", 0),
            f"{number(one, 'size_bytes'):,}",
            one.get("level", 0),
            day_of(number(one, "last_ms")),
            "archive only"
            if number(one, "next_offset") <= begins.get((one["topic"], one.get("partition", 0)), 0)
            else "Kafka too",
        )
        for one in page.get("ranges", [])
    )
    heads = ("log", "offsets", "records", "deleted", "bytes", "level", "up to", "held by")
    listing(page.get("ranges", []), as_json, heads, rows, "nothing is archived yet")


@archive.command("restore")
def restore(
    topic: Annotated[str, typer.Option(help="The topic.")],
    to: Annotated[Path, typer.Option(help="The file to write: one JSON object a line.")],
    partition: Annotated[int, typer.Option(help="The partition.")] = 0,
    first: Annotated[int, typer.Option(help="The first offset wanted.")] = 0,
    end: Annotated[int, typer.Option(help="The offset behind the last; 0 means all.")] = 0,
    key: Key = "",
) -> None:
    """Write archived records to a file, each object verified against the signed tree before.

    Services need no such thing: they read the archive where Kafka's log begins later.
    Example: loomos archive restore --topic loomos.data --to records.jsonl
    """
    from loom.log.archive import fetch
    from loom.log.archiver import check, signed_tree
    from loom.log.parquet import decoded

    with named():
        settings = Settings.load("loomdb")
        depot, cache = depot_in(settings), settings.home / "archive-cache"
        sealed = signed_tree(settings.home / "trees", topic, partition, public_key(key, settings))
        if sealed is None:
            fail(f"{topic}/{partition} has no signed tree: nothing can vouch for its archive")
        written = 0
        with to.open("w") as file:
            for manifest in chain_of(depot, topic, partition):
                if manifest.next_offset <= first or 0 < end <= manifest.first_offset:
                    continue
                check(depot, cache, manifest, sealed)
                for record in decoded(fetch(depot, manifest, cache), first):
                    if not end or record.offset < end:
                        file.write(json.dumps(plain(record)) + "\n")
                        written += 1
                err.print(f"{manifest.object}: verified", markup=False)
        err.print(f"{written} records are in {to}", markup=False)


@archive.command("events")
def events(
    type_prefix: Annotated[str, typer.Option("--type", help="e.g. job. or job.preempted")] = "",
    stream: Annotated[str, typer.Option(help="e.g. a job's id")] = "",
    actor: Annotated[str, typer.Option(help="e.g. user:usr-acme-…")] = "",
    correlation_id: Annotated[str, typer.Option(help="The story.")] = "",
    topic: Topic = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100,
    as_json: Json = False,
) -> None:
    """Search the archive itself, without Kafka or Postgres; for who holds the home.

    Example: loomos archive events --type job. --limit 20
    """
    from loom.log.topics import TOPICS
    from loomos.loomdb.query.cold import cold_rows, place

    settings = Settings.load("loomdb")
    depot, cache = depot_in(settings), settings.home / "archive-cache"
    wanted = {
        "type_prefix": type_prefix,
        "actor": actor,
        "stream": stream,
        "correlation_id": correlation_id,
    }
    rows: list[dict[str, Any]] = []
    for one in TOPICS:
        if not one.judged or topic not in ("", one.name):
            continue
        for partition in range(settings.partitions):
            with named():
                chain = chain_of(depot, one.name, partition)
                rows += cold_rows(depot, cache, chain, wanted, limit)
    rows = sorted(rows, key=place)[:limit]
    shown = (
        (
            datetime.fromtimestamp(row["at_us"] / 1e6, UTC).isoformat(" ", "seconds"),
            row["type"],
            row["stream"],
            row["actor"],
            f"{row['topic']}/{row['partition']}@{row['record_offset']}",
            "deleted" if row["deleted"] else "",
        )
        for row in rows
    )
    heads = ("time", "type", "stream", "by", "place", "content")
    listing(rows, as_json, heads, shown, "no archived event fits")


def plain(record: "Archived") -> dict[str, Any]:
    """A record as JSON values; bytes as base64."""
    return {
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": encoded(record.key),
        "value": encoded(record.value),
        "headers": [[name, encoded(data)] for name, data in record.headers],
        "kind": ("void", "event", "marker")[record.kind],
        "digest": record.digest.hex(),
        "deleted": record.deleted,
    }


def encoded(data: bytes | None) -> str | None:
    """Bytes as base64."""
    return None if data is None else base64.b64encode(data).decode()


def chain_of(depot: "Depot", topic: str, partition: int) -> "list[Manifest]":
    """The archived ranges of a partition, in the log's order."""
    from loom.log.archive import manifests, newest

    return newest(manifests(depot, topic, partition))


def ended(door: Door, run_id: str, until: float) -> dict[str, Any] | None:
    """What the event says that ends a run; None where it does not come in time."""
    asked = {"type_prefix": "archive.run.finished", "stream": run_id}
    while time.monotonic() < until:
        page = door.call("GET", TRAIL, params=asked)
        for event in page.get("events", []):
            return event["payload"]
        time.sleep(LOOK_S)
    return None


def told_ranges(door: Door, topic: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What is archived now, by place and generation."""
    page = door.call("GET", PLATFORM, params={"topic": topic})
    return {
        (
            one["topic"],
            one.get("partition", 0),
            number(one, "first_offset"),
            one.get("generation", 0),
        ): one
        for one in page.get("ranges", [])
    }


def show_range(told: dict[str, Any], as_json: bool) -> None:
    """One range as it comes."""
    if as_json:
        print_json(told)
        return
    out.print(
        f"{told['topic']}/{told.get('partition', 0)} "
        f"{number(told, 'first_offset')}–{number(told, 'next_offset') - 1}: "
        f"{told.get('rows', 0)} records, {number(told, 'size_bytes'):,} bytes, verified",
        markup=False,
    )


def day_of(at_ms: int) -> str:
    """A day in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")
