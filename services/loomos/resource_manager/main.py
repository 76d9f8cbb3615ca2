"""Wires the resource manager."""

from pathlib import Path

from loom.kit.contract import Service
from loom.v1 import resource_manager_pb2
from loomos.resource_manager import query, stream
from loomos.resource_manager.decide import decide, resource
from loomos.resource_manager.evolve import evolve
from loomos.resource_manager.project import project
from loomos.resource_manager.state import due, initial

__all__ = ["SERVICE"]

SERVICE = Service(
    name="resource-manager",
    contract=resource_manager_pb2,
    initial=initial,
    decide=decide,
    resource=resource,
    evolve=evolve,
    project=project,
    schema=(Path(__file__).parent / "schema.sql").read_text(),
    query=query,
    stream=stream,
    due=due,
    background=stream.watch,
)
