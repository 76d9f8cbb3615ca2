"""Wires data."""

from importlib.resources import files

from loom.kit.contract import Service
from loom.v1 import data_pb2
from loomos.data import door, query
from loomos.data.decide import decide, resource
from loomos.data.evolve import evolve
from loomos.data.project import project
from loomos.data.state import due, initial

__all__ = ["SERVICE"]

SERVICE = Service(
    name="data",
    contract=data_pb2,
    initial=initial,
    decide=decide,
    resource=resource,
    evolve=evolve,
    project=project,
    query=query,
    door=door,
    due=due,
    # What a policy deleted.
    follows=("loomos.loomdb",),
    schema=files("loomos.data").joinpath("schema.sql").read_text(),
)
