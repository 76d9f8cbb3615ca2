"""Wires the security service."""

from pathlib import Path

from loom.kit.contract import Service
from loom.v1 import security_pb2
from loomos.security import door, query
from loomos.security.decide import decide, resource
from loomos.security.effect import effect
from loomos.security.evolve import evolve
from loomos.security.project import project
from loomos.security.state import initial

__all__ = ["SERVICE"]

SERVICE = Service(
    name="security",
    contract=security_pb2,
    initial=initial,
    decide=decide,
    resource=resource,
    evolve=evolve,
    project=project,
    query=query,
    timeless=("ExplainAccess",),
    effect=effect,
    door=door,
    schema=(Path(__file__).parent / "schema.sql").read_text(),
)
