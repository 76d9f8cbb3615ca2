"""The partitions that one instance owns now, and the loops that it runs for each.

1. The lease only keeps claimants from racing and tells callers where the owner is; the log decides
   who owns a partition. An absent database changes nothing for an owner.
2. Commander, projectors and reactor of a partition live and end together.
"""

import asyncio
import contextlib
from typing import Any

import psycopg

from loom.decider import Position
from loom.kit.commander import Commander
from loom.kit.loops import kept
from loom.kit.projector import Projector
from loom.kit.reactor import Reactor
from loom.log.topics import partition_of
from loom.store import LEASE_S

__all__ = ["Ownership"]


class Ownership:
    """What an instance of a service owns."""

    def __init__(self, shell: Any) -> None:
        """The shell is the process's `kit.service.Shell`, which stands above this module."""
        self.commanders: dict[int, Commander] = {}
        self.projectors: dict[tuple[str, int], Projector] = {}
        self._shell = shell

    def commander_of(self, shard: str) -> Commander | None:
        """The commander that decides for a shard, where it is here and decides."""
        partition = partition_of(shard, self._shell.settings.partitions)
        commander = self.commanders.get(partition)
        return commander if commander is not None and commander.serving.is_set() else None

    def owns(self, shard: str) -> bool:
        """Whether a shard's lease is held here, also while its partition is being claimed anew."""
        return partition_of(shard, self._shell.settings.partitions) in self.commanders

    async def projected(self, shard: str, timeout_s: float) -> bool:
        """Wait until the read model holds all that was confirmed here of a shard; False if not."""
        commander = self.commander_of(shard)
        if commander is None or commander.writer is None:
            return False
        partition = commander.partition
        projector = self.projectors.get((self._shell.service.topic, partition))
        base = commander.writer.reader.base
        last = Position(self._shell.service.topic, partition, base.offset - 1, base.incarnation)
        return projector is not None and await projector.reached(last, timeout_s)

    async def own(self, partition: int) -> None:
        """Hold the partition's lease whenever nobody else does, and run its loops meanwhile."""
        shell = self._shell
        topic = shell.service.topic
        while True:
            try:
                holder = await shell.store.hold_lease(topic, partition, shell.owner, shell.address)
            except psycopg.OperationalError:
                holder = ""
            if holder != shell.owner:
                await asyncio.sleep(1)
                continue
            async with asyncio.TaskGroup() as tasks:
                loops = tasks.create_task(self._loops(partition))
                await self._renew(partition)
                loops.cancel()

    async def _renew(self, partition: int) -> None:
        """Ends when another holds the lease."""
        shell = self._shell
        while True:
            await asyncio.sleep(LEASE_S / 3)
            commander = self.commanders.get(partition)
            epoch = commander.epoch if commander else 0
            with contextlib.suppress(psycopg.OperationalError):
                holder = await shell.store.hold_lease(
                    shell.service.topic, partition, shell.owner, shell.address, epoch
                )
                if holder != shell.owner:
                    return

    async def _loops(self, partition: int) -> None:
        shell, service = self._shell, self._shell.service
        commander = Commander(
            service,
            shell.settings,
            partition,
            shell.authorizer,
            shell.owner,
            shell.store,
            shell.sealing,
        )
        self.commanders[partition] = commander
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(kept(commander.run()))
                for topic in (service.topic, *service.follows):
                    projector = Projector(
                        shell.store, shell.settings, topic, partition, service.project
                    )
                    self.projectors[topic, partition] = projector
                    tasks.create_task(kept(projector.run()))
                if service.react is not None or service.effect is not None:
                    reactor = Reactor(
                        service, shell.store, shell.settings, partition, shell.tell_because, shell
                    )
                    tasks.create_task(kept(reactor.run()))
        finally:
            del self.commanders[partition]

    async def serving(self) -> None:
        """Wait until a partition that this instance owns decides."""
        while not any(  # noqa: ASYNC110 - any of several events, made later
            c.serving.is_set() for c in self.commanders.values()
        ):
            await asyncio.sleep(0.02)

    async def release(self) -> None:
        """Give every lease up, so that the next claimant need not wait."""
        shell = self._shell
        for partition in range(shell.settings.partitions):
            with contextlib.suppress(psycopg.Error):
                await shell.store.release_lease(shell.service.topic, partition, shell.owner)
