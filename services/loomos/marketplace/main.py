"""Wires the marketplace."""

from pathlib import Path

from loom.decider import Recorded
from loom.kit.contract import Hears, Service
from loom.v1 import marketplace_pb2
from loomos.marketplace import query
from loomos.marketplace.decide import decide, resource
from loomos.marketplace.evolve import evolve
from loomos.marketplace.project import project
from loomos.marketplace.react import react
from loomos.marketplace.state import due, initial, organisation_of

__all__ = ["SERVICE"]


def payer(record: Recorded) -> str:
    """The organisation that an allocation's event concerns; a node's event concerns all."""
    event = record.event
    project_id = getattr(getattr(event, "run", None), "project_id", "") or getattr(
        event, "project_id", ""
    )
    return organisation_of(project_id)


SERVICE = Service(
    name="marketplace",
    contract=marketplace_pb2,
    initial=initial,
    decide=decide,
    resource=resource,
    evolve=evolve,
    react=react,
    project=project,
    query=query,
    due=due,
    schema=(Path(__file__).parent / "schema.sql").read_text(),
    hears=(
        Hears(
            "resource-manager",
            types=(
                "node.registered",
                "allocation.granted",
                "allocation.started",
                "allocation.released",
            ),
            shard=payer,
        ),
    ),
)
