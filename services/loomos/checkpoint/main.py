"""Wires the checkpoint service."""

from pathlib import Path

from loom.decider import Recorded
from loom.kit.contract import Hears, Service
from loom.v1 import checkpoint_pb2
from loomos.checkpoint import query
from loomos.checkpoint.decide import decide, resource
from loomos.checkpoint.effect import effect
from loomos.checkpoint.evolve import evolve
from loomos.checkpoint.project import project
from loomos.checkpoint.react import react
from loomos.checkpoint.state import due, initial

__all__ = ["SERVICE", "project_of"]


def project_of(record: Recorded) -> str:
    """The project of a job's event."""
    return getattr(record.event, "project_id", "")


SERVICE = Service(
    name="checkpoint",
    contract=checkpoint_pb2,
    initial=initial,
    decide=decide,
    resource=resource,
    evolve=evolve,
    react=react,
    project=project,
    query=query,
    effect=effect,
    due=due,
    schema=(Path(__file__).parent / "schema.sql").read_text(),
    hears=(
        Hears(
            "scheduler",
            types=(
                "job.placed",
                "job.started",
                "job.progressed",
                "job.checkpointed",
                "job.preempted",
                "job.requeued",
                "job.paused",
                "job.finished",
            ),
            shard=project_of,
        ),
    ),
)
