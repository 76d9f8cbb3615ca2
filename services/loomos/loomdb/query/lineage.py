"""The rows of a lineage report: what is linked with a dataset, job, checkpoint, model, deployment.

1. Links are followed from event to event, a bounded number of times, over what the platform decided
   and what users told under the catalogue's types; another job on the same dataset is another
   story, unless the dataset is where the report begins.
2. A model may be asked millions of times: of inferences the first ones are shown, all are counted.
"""

from typing import Any, LiteralString, cast

import psycopg

from loomos.loomdb.proof import Place
from loomos.loomdb.query.place import SHOWN
from loomos.loomdb.query.report import (
    FROM_CUT,
    ORDER,
    ROWS_MAX,
    Content,
    parameters,
    select,
    shown,
    too_many,
)
from loomos.loomdb.query.search_sql import Values, joined, where
from loomos.loomdb.report.making import Section

__all__ = ["lineage"]

LINEAGE = (
    "job.submitted", "job.started", "job.finished", "checkpoint.recorded", "checkpoint.verified",
    "checkpoint.corrupted", "model.version.registered", "auto.deployment.judged",
    "model.stage.reached", "deployment.requested", "deployment.started", "deployment.activated",
    "deployment.failed", "deployment.stopped",
    "data.ingestion.start", "data.ingestion.complete", "data.validation.start",
    "data.validation.complete", "job.completed", "model.training.start",
    "model.training.checkpoint", "model.training.complete", "model.training.failed",
    "model.evaluation.start", "model.evaluation.complete", "compliance.model.lineage",
    "model.deployment.start", "model.deployment.complete",
)  # fmt: skip
INFERENCE = "model.inference.request"
LINKS = ("dataset_id", "job_id", "checkpoint_id", "model_id", "model_name", "deployment_id")
DATASETS = ("dataset_id", "dataset_ids")
LINEAGE_STEPS_MAX = 6
INFERENCES_SHOWN = 100


async def lineage(
    db: psycopg.AsyncConnection, organisation: str, cut: list[Place], thing: str
) -> Content:
    """Everything that is linked with a dataset, job, checkpoint, model or deployment."""
    known: set[str] = set()
    wanted = {thing}
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    given = parameters(organisation, cut)
    for _ in range(LINEAGE_STEPS_MAX):
        if not wanted:
            break
        ids = sorted(wanted)
        values = Values()
        text = f"e.type = ANY(%(types)s) AND (e.stream = ANY(%(ids)s) OR {naming(ids, values)})"
        rows = await select(db, text, given | {"types": list(LINEAGE), "ids": ids} | values.given)
        known |= wanted
        wanted = set()
        for row in rows:
            found[row["topic"], row["partition"], row["record_offset"]] = row
            wanted |= linked(row["payload"]) - known
        if len(found) > ROWS_MAX:
            raise too_many()
    ordered = sorted(
        found.values(),
        key=lambda row: (row["at_us"], row["topic"], row["partition"], row["record_offset"]),
    )
    links = sorted(known)
    asked, count = await inferences(db, links, given)
    titles = {
        "Datasets and jobs": ("job.", "data."),
        "Checkpoints": ("checkpoint.",),
        "Deployments and endpoints that serve": ("deployment.", "model.deployment."),
        "Models": ("model.", "auto.", "compliance."),
    }
    sections: dict[str, list[dict[str, Any]]] = {title: [] for title in titles}
    for row in ordered:
        title = next(name for name, kinds in titles.items() if row["type"].startswith(kinds))
        sections[title].append(row)
    order = ("Datasets and jobs", "Checkpoints", "Models", "Deployments and endpoints that serve")
    summary = [("begins at", thing), ("linked with it", ", ".join(links))]
    made = [Section(title, shown(sections[title])) for title in order]
    if count:
        told = f"{count}" if count == len(asked) else f"{count}, of which the first are shown"
        summary.append(("inferences", told))
        made.append(Section("Inferences", shown(asked)))
    return made, summary


def naming(ids: list[str], values: Values) -> str:
    """The condition for events that name one of these, which the index can find."""
    paths = [
        [*place, link]
        for place in (["payload"], ["payload", "spec"], ["payload", "lineage"])
        for link in (*LINKS, "dataset_ids")
    ]
    return joined("OR", [where(path, "=", ids, values) for path in paths]).text


async def inferences(
    db: psycopg.AsyncConnection, links: list[str], given: dict[str, Any]
) -> tuple[list[dict[str, Any]], int]:
    """The first inferences that name something of this, and how many there are."""
    values = Values()
    chosen = f"{FROM_CUT} AND e.type = '{INFERENCE}' AND ({naming(links, values)})"
    given = given | values.given
    counted = await db.execute(cast(LiteralString, f"SELECT count(*) AS n {chosen}"), given)
    (row,) = cast("list[dict[str, Any]]", await counted.fetchall())
    text = f"SELECT {SHOWN} {chosen} ORDER BY {ORDER} LIMIT {INFERENCES_SHOWN}"
    found = await db.execute(cast(LiteralString, text), given)
    return cast("list[dict[str, Any]]", await found.fetchall()), int(row["n"])


def linked(payload: dict[str, Any]) -> set[str]:
    """The ids that an event names, a dataset's excepted: other work on it is another story."""
    told = payload.get("payload")
    places = [payload, payload.get("spec") or {}, payload.get("lineage") or {}]
    places.append(told if isinstance(told, dict) else {})
    names = [name for name in LINKS if name not in DATASETS]
    return {str(place[name]) for place in places for name in names if place.get(name)}
