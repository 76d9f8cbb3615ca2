"""The rows of a lineage report: what is linked with a dataset, job, checkpoint, model, deployment.

Links are followed from event to event, a bounded number of times; another job on the same dataset
is another story, unless the dataset is where the report begins.
"""

from typing import Any

import psycopg

from loomos.loomdb.proof import Place
from loomos.loomdb.query.report import ROWS_MAX, Content, parameters, select, shown, too_many
from loomos.loomdb.report.making import Section

__all__ = ["lineage"]

LINEAGE = (
    "job.submitted", "job.started", "job.finished", "checkpoint.recorded", "checkpoint.verified",
    "checkpoint.corrupted", "model.version.registered", "auto.deployment.judged",
    "model.stage.reached", "deployment.requested", "deployment.started", "deployment.activated",
    "deployment.failed", "deployment.stopped",
)  # fmt: skip
LINKS = ("dataset_id", "job_id", "checkpoint_id", "model_id", "deployment_id")
LINEAGE_STEPS_MAX = 6


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
        rows = await select(
            db,
            "e.type = ANY(%(types)s) AND (e.stream = ANY(%(ids)s) OR "
            + " OR ".join(
                f"{place} ->> '{link}' = ANY(%(ids)s)"
                for link in LINKS
                for place in ("e.payload", "e.payload -> 'spec'", "e.payload -> 'lineage'")
            )
            + ")",
            given | {"types": list(LINEAGE), "ids": sorted(wanted)},
        )
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
    sections = [
        ("Datasets and jobs", ("job.",)),
        ("Checkpoints", ("checkpoint.",)),
        ("Models", ("model.", "auto.")),
        ("Deployments and endpoints that serve", ("deployment.",)),
    ]
    links = sorted(known)
    return [
        Section(title, shown([row for row in ordered if row["type"].startswith(kinds)]))
        for title, kinds in sections
    ], [("begins at", thing), ("linked with it", ", ".join(links))]


def linked(payload: dict[str, Any]) -> set[str]:
    """The ids that an event names, a dataset's excepted: other work on it is another story."""
    places = [payload, payload.get("spec") or {}, payload.get("lineage") or {}]
    names = [name for name in LINKS if name != "dataset_id"]
    return {str(place[name]) for place in places for name in names if place.get(name)}
