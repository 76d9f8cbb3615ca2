"""Wires the scheduler."""

from pathlib import Path

from loom.kit.contract import Hears, Service
from loom.v1 import scheduler_pb2
from loomos.scheduler import door, query, stream
from loomos.scheduler.decide import decide, resource
from loomos.scheduler.evolve import evolve
from loomos.scheduler.project import project
from loomos.scheduler.react import react
from loomos.scheduler.state import due, initial

__all__ = ["SERVICE"]

SERVICE = Service(
    name="scheduler",
    contract=scheduler_pb2,
    initial=initial,
    decide=decide,
    resource=resource,
    evolve=evolve,
    react=react,
    project=project,
    schema=(Path(__file__).parent / "schema.sql").read_text(),
    query=query,
    stream=stream,
    door=door,
    due=due,
    hears=(
        Hears(
            "resource-manager",
            same_shard=True,
            types=(
                "node.registered",
                "node.connected",
                "node.lost",
                "node.cordoned",
                "node.uncordoned",
                "node.drain.requested",
                "gpu.cordoned",
                "gpu.uncordoned",
                "allocation.granted",
                "allocation.refused",
                "allocation.started",
                "allocation.progressed",
                "allocation.checkpointed",
                "allocation.release.requested",
                "allocation.released",
            ),
        ),
        Hears(
            "security",
            types=(
                "project.created",
                "dataset.access.granted",
                "dataset.access.revoked",
                "quota.set",
            ),
        ),
    ),
)
