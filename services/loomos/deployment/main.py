"""Wires the deployment service."""

from pathlib import Path

from loom.kit.contract import Service
from loom.v1 import deployment_pb2
from loomos.deployment import door, query
from loomos.deployment.decide import decide, resource
from loomos.deployment.effect import effect
from loomos.deployment.evolve import evolve
from loomos.deployment.project import project
from loomos.deployment.state import initial
from loomos.deployment.watch import watch

__all__ = ["SERVICE"]

SERVICE = Service(
    name="deployment",
    contract=deployment_pb2,
    initial=initial,
    decide=decide,
    resource=resource,
    evolve=evolve,
    project=project,
    query=query,
    effect=effect,
    door=door,
    background=watch,
    schema=(Path(__file__).parent / "schema.sql").read_text(),
)
