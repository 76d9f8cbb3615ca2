"""Wires LoomDB's audit side: its own decisions, the index over all topics, the notaries."""

import asyncio
from importlib.resources import files
from typing import Any

from loom.kit.contract import Service
from loom.kit.loops import kept
from loom.log.topics import DECIDING
from loom.v1 import loomdb_pb2
from loomos.loomdb import door, query, stream
from loomos.loomdb.archiver import archive
from loomos.loomdb.decide import decide, resource
from loomos.loomdb.effect import effect
from loomos.loomdb.evolve import evolve
from loomos.loomdb.feed import keep_feeds
from loomos.loomdb.notifying import notify
from loomos.loomdb.project import project
from loomos.loomdb.rotation import rotate_old
from loomos.loomdb.seal import notarise
from loomos.loomdb.state import initial

__all__ = ["SERVICE"]


async def beside(shell: Any) -> None:
    """What runs beside the kit's loops."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(kept(notarise(shell)))
        tasks.create_task(kept(archive(shell)))
        tasks.create_task(kept(rotate_old(shell)))
        tasks.create_task(kept(stream.tail_of(shell).run()))
        tasks.create_task(kept(keep_feeds(shell)))
        tasks.create_task(kept(stream.watch_alerts(shell)))
        tasks.create_task(kept(notify(shell, stream.tail_of(shell))))


SERVICE = Service(
    name="loomdb",
    contract=loomdb_pb2,
    initial=initial,
    decide=decide,
    resource=resource,
    evolve=evolve,
    project=project,
    query=query,
    stream=stream,
    effect=effect,
    schema=files("loomos.loomdb").joinpath("schema.sql").read_text(),
    door=door,
    background=beside,
    follows=tuple(f"loomos.{name}" for name in DECIDING if name != "loomdb"),
)
