"""`loomos bench query`: how long typical searches of the audit index take, and how that grows.

1. The index is filled by COPY with users' events and platform events of ten organisations, of which
   one that searches has half; then it has the tables and indexes of LoomDB's own schema.
2. What is timed is the search itself on its own connection, from request to answer, with other
   values each time; the record that each search leaves in the log is what `bench append` measures.
3. The peer is the same search at a tenth of the size: the ratio tells how cost grows.
"""

import asyncio
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, LiteralString, cast

from loom.decider import Resource
from loom.kit.caller import Caller, Decision, Scope
from loom.store import Connection, Store
from loom.v1 import loomdb_pb2 as pb
from loomos.cli.bench.report import Report, Row, percentile
from loomos.embedded import postgres
from loomos.embedded.home import Home
from loomos.embedded.stores import Stores
from loomos.loomdb.query.search import search_events
from loomos.loomdb.spans import spans_of

__all__ = ["SIZES", "measure"]

BENCH = "query"
SIZES = (100_000, 1_000_000)
BIG = 10_000_000
RUNS = 100
BEGAN_US = 1_704_067_200_000_000
YEAR_US = 365 * 86_400_000_000
TYPES = (
    ("model.training.checkpoint", 55), ("model.inference.request", 20),
    ("model.training.start", 8), ("model.training.complete", 6), ("job.started", 5),
    ("data.ingestion.complete", 4), ("model.training.failed", 2),
)  # fmt: skip
ORGANISATIONS = ("acme", *(f"other-{number}" for number in range(9)))
TAGS = ("healthcare", "nlp", "vision", "production", "nightly", "phi_data", "bert", "ablation")
LEVELS = ("SOC2_TYPE2", "HIPAA", "GDPR", "ISO27001")
COLUMNS = (
    "topic, partition, record_offset, incarnation, event_id, type, at_us, actor, stream, version, "
    "shard, organisation_id, project_id, command_id, command_digest, correlation_id, "
    "causation_id, payload, search"
)
TABLE = re.compile(r"CREATE TABLE (?:audit|deleted)_events \(.*?\n\);", re.DOTALL)
INDEX = re.compile(r"CREATE INDEX ON audit_events [^;]*;")


class Acme:
    """What an auditor of the one organisation may see."""

    view: Any = None

    def may(self, principal: str, action: str, resource: Resource) -> Decision:
        """Not asked here."""
        return Decision(False, ())

    def scope(self, principal: str, action: str) -> Scope:
        """The organisation's rows."""
        return Scope(False, ["acme"], [])


def measure(report: Report, folder: Path, big: bool) -> None:
    """All rows, at one size and at ten times that."""
    stores = Stores(Home.open(folder), {})
    try:
        stores.launch_postgres(report.say)
        stores.database.wait()
        postgres.provision(stores.admin_dsn(), {"loomdb": stores.database_password("loomdb")})
        head, _, _ = stores.admin_dsn().rpartition("/")
        asyncio.run(measured(report, f"{head}/{postgres.DATABASE}", big))
    finally:
        stores.stop()


async def measured(report: Report, dsn: str, big: bool) -> None:
    """Fill and search at each size."""
    earlier: dict[str, float] = {}
    store = Store(dsn, "bench")
    await store.open()
    for size in (*SIZES, BIG) if big else SIZES:
        report.say(f"{size} events")
        async with store.connection() as db:
            took = await filled(db, size)
        report.add(Row(BENCH, f"fill_{size}", size / took, "events/s"))
        all_ms: list[float] = []
        for name, asked in SEARCHES.items():
            times = await timed(store, asked)
            all_ms += times
            tell(report, f"{name}_{size}", f"{name}_{size // 10}", times, earlier)
        tell(report, f"all_{size}", f"all_{size // 10}", all_ms, earlier)
    await store.close()


def tell(
    report: Report, name: str, peer: str, times: list[float], earlier: dict[str, float]
) -> None:
    """Rows of one kind of search."""
    for percent in (50, 99):
        metric, before = f"{name}_p{percent}", earlier.get(f"{peer}_p{percent}")
        value = earlier[metric] = percentile(times, percent)
        row = Row(BENCH, metric, value, "ms")
        if before is not None:
            row = row._replace(peer="a tenth of it", peer_value=before, ratio=value / before)
        report.add(row)


async def timed(store: Store, asked: Callable[[random.Random], dict[str, Any]]) -> list[float]:
    """Milliseconds of each of the runs; the first tenth warms up and does not count."""
    draw = random.Random(7)  # noqa: S311 - a bench's own draws
    caller = Caller("user:usr-acme-a", "acme", "user", Acme())
    times: list[float] = []
    for run in range(-RUNS // 10, RUNS):
        request = pb.SearchEventsRequest(organisation_id="acme", **asked(draw))
        began = time.perf_counter()
        async with store.connection() as db:
            await search_events(request, caller, db)
        if run >= 0:
            times.append((time.perf_counter() - began) * 1000)
    return times


def a_month(draw: random.Random) -> dict[str, int]:
    """A month of the year."""
    begin = BEGAN_US + draw.randrange(12) * (YEAR_US // 12)
    return {"from_us": begin, "to_us": begin + YEAR_US // 12}


SEARCHES: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "newest": lambda draw: {"descending": True},
    "types_in_month": lambda draw: {"types": ["model.training.failed"], **a_month(draw)},
    "seed": lambda draw: {
        "types": ["model.training.start", "model.training.complete", "model.training.failed"],
        "where": [
            "tags contains healthcare",
            "data.hardware_config.gpu_count >= 4",
            "context.compliance_level = SOC2_TYPE2",
        ],
    },
    "user": lambda draw: {"where": [f"context.user_id = user_{draw.randrange(500)}"]},
    "session": lambda draw: {"where": [f"context.session_id = sess_{draw.randrange(20_000)}"]},
    "model": lambda draw: {"where": [f"payload.model_name = model-{draw.randrange(200)}"]},
    "common_range": lambda draw: {"where": [f"payload.accuracy >= 0.{draw.randrange(60, 90)}"]},
    "rare_range": lambda draw: {"where": ["payload.loss < 0.0005"], **a_month(draw)},
    "model_and_range": lambda draw: {
        "where": [f"payload.model_name = model-{draw.randrange(200)}", "payload.accuracy >= 0.9"]
    },
    "prefix": lambda draw: {"where": [f"payload.model_name prefix model-{draw.randrange(1, 10)}"]},
    "critical": lambda draw: {"where": ["priority = critical"], "descending": True},
    "platform_job": lambda draw: {"types": ["job."], "where": ["payload.run = 3"]},
}


async def filled(db: Connection, size: int) -> float:
    """Make the index anew with so many events; the seconds that COPY and indexes took."""
    schema = files("loomos.loomdb").joinpath("schema.sql").read_text()
    await db.execute("DROP SCHEMA IF EXISTS bench CASCADE; CREATE SCHEMA bench")
    await db.execute("SET LOCAL statement_timeout = 0")
    for table in TABLE.findall(schema):
        await db.execute(cast(LiteralString, table))
    began = time.perf_counter()
    text = f"COPY audit_events ({COLUMNS}) FROM STDIN"
    async with db.cursor().copy(cast(LiteralString, text)) as copy:
        for row in rows(size):
            await copy.write_row(row)
    for index in INDEX.findall(schema):
        await db.execute(cast(LiteralString, index))
    took = time.perf_counter() - began
    await db.execute("ANALYZE audit_events")
    return took


def rows(size: int) -> Iterator[tuple[Any, ...]]:
    """So many rows of the index over one year."""
    draw = random.Random(size)  # noqa: S311 - a bench's own draws
    kinds = [name for name, _ in TYPES]
    weights = [weight for _, weight in TYPES]
    for number in range(size):
        kind = draw.choices(kinds, weights)[0]
        organisation = draw.choices(ORGANISATIONS, (9, *(1,) * 9))[0]
        users = kind != "job.started"
        said = payload_of(draw) if users else {"job_id": f"job-{number}", "run": draw.randrange(8)}
        found = {
            "priority": draw.choices(("low", "normal", "high", "critical"), (20, 70, 9, 1))[0],
            "tags": draw.sample(TAGS, 2),
            "classification": "internal",
            "context": context_of(draw) if users else {},
            "security": {},
            "payload": said,
            "span": spans_of(BEGAN_US + number * (YEAR_US // size)),
            "owner": organisation,
        }
        whole: Any = said
        if users:
            whole = {
                "append_id": f"a{number}",
                "event_type": kind,
                "payload": said,
                "context": found["context"],
                "metadata": {"tags": found["tags"], "priority": found["priority"]},
            }
        yield (
            *("loomos.data" if users else "loomos.scheduler", 0, number, 0, f"e{number}.1", kind),
            *(BEGAN_US + number * (YEAR_US // size), f"user:usr-{organisation}-{number % 50}"),
            *(f"run-{number % 5000}", number // 5000 + 1, organisation, organisation, ""),
            *(f"c{number}", b"", f"story-{number // 20}", f"e{number - 1}.1"),
            *(json.dumps(whole), json.dumps(found)),
        )


def payload_of(draw: random.Random) -> dict[str, Any]:
    """What a training event says."""
    return {
        "model_name": f"model-{draw.randrange(200)}",
        "dataset_id": f"corpus-{draw.randrange(1000)}",
        "hyperparameters": {"learning_rate": 2e-5, "batch_size": 32, "optimizer": "adamw"},
        "hardware_config": {
            "gpu_count": draw.randrange(1, 65),
            "gpu_type": draw.choice(("A100", "H100", "L40S")),
        },
        "epoch": draw.randrange(10),
        "loss": round(draw.random(), 6),
        "accuracy": round(draw.random(), 4),
        "cost_micros": draw.randrange(1_000_000),
        "status": "succeeded" if draw.random() < 0.9 else "failed",
    }


def context_of(draw: random.Random) -> dict[str, Any]:
    """Who did it from where."""
    return {
        "user_id": f"user_{draw.randrange(500)}",
        "session_id": f"sess_{draw.randrange(20_000)}",
        "source_ip": f"10.0.{draw.randrange(256)}.{draw.randrange(256)}",
        "user_agent": "LoomOS-SDK/1.2.3",
        "compliance_level": draw.choice(LEVELS),
        "cost_center": f"team-{draw.randrange(20)}",
    }
