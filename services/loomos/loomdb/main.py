"""Wires LoomDB's audit side: its own decisions, the index over all topics, the notaries."""

from importlib.resources import files

from loom.kit.contract import Service
from loom.log.topics import DECIDING
from loom.v1 import loomdb_pb2
from loomos.loomdb import door, query
from loomos.loomdb.decide import decide, resource
from loomos.loomdb.evolve import evolve
from loomos.loomdb.project import project
from loomos.loomdb.seal import notarise
from loomos.loomdb.state import initial

__all__ = ["SERVICE"]

SERVICE = Service(
    name="loomdb",
    contract=loomdb_pb2,
    initial=initial,
    decide=decide,
    resource=resource,
    evolve=evolve,
    project=project,
    query=query,
    schema=files("loomos.loomdb").joinpath("schema.sql").read_text(),
    door=door,
    background=notarise,
    follows=tuple(f"loomos.{name}" for name in DECIDING if name != "loomdb"),
)
