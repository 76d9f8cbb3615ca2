"""What this runtime serves: orders taken, fenced and kept, replicas found by served name.

1. An order below the highest revision known of its deployment is refused, also after a restart:
   orders are on disk before they are obeyed.
2. A new revision is ready before the route moves to it; the one before it is drained, then ended.
3. A request that names no version is answered by production's, else by staging's highest.
4. A caller who may not use a model is answered as if there were none.
"""

import asyncio
import contextlib
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from loom.kit import observe
from loom.kit.errors import Failure, shown
from loom.v1 import deployment_pb2, runtime_pb2
from loomos.runtime import artifacts
from loomos.runtime.process import Confinement
from loomos.runtime.replica import Replica

__all__ = ["Models", "Served", "served_name"]

MODELS_MAX = 1024
DRAIN_SECONDS = 30.0
WORKER_BYTES_MAX = 4 * 1024**3
WORKER_UID_MIN = 1_879_048_192
"""Worker uids count up from here, far from people's, packages' and jobs'."""


@dataclass(slots=True)
class Served:
    """One deployment as this runtime serves it."""

    order: runtime_pb2.LoadModelRequest
    replica: Replica

    @property
    def version(self) -> str:
        """The version as the inference protocol writes it."""
        return str(self.order.version)


class Models:
    """The deployments of one runtime; `folder` is its own, `store` the artifacts' (read only)."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.store = store
        self.orders = folder / "orders"
        self.empty = folder / "empty"
        self.served: dict[str, Served] = {}
        self.highest: dict[str, int] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._uid = WORKER_UID_MIN
        self._log = observe.logger("models")
        for each in (self.orders, self.empty):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)

    def restore(self) -> None:
        """Obey again what was ordered before a restart; workers start meanwhile."""
        for path in sorted(self.orders.glob("*.order")):
            try:
                order = runtime_pb2.LoadModelRequest.FromString(path.read_bytes())
            except DecodeError:
                self._log.error("an order on disk is damaged and not obeyed", path=str(path))
                continue
            self.highest[order.deployment_id] = order.revision
            if order.HasField("artifact"):
                replica = self._replica(order)
                replica.first.add_done_callback(lambda first: first.exception())
                self.served[order.deployment_id] = Served(order, replica)

    async def load(self, order: runtime_pb2.LoadModelRequest) -> list[str]:
        """Serve a revision; what isolates its worker. Raises Failure when it cannot be served."""
        async with self._lock(order.deployment_id):
            self._fence(order.deployment_id, order.revision)
            before = self.served.get(order.deployment_id)
            if before is not None and before.order == order and before.replica.ready:
                return list(before.replica.worker().isolation)
            if before is None and len(self.served) >= MODELS_MAX:
                raise Failure("RESOURCE_EXHAUSTED", f"this runtime serves {MODELS_MAX} models")
            replica = self._replica(order)
            try:
                await replica.first
                isolation = list(replica.worker().isolation)
            except BaseException:
                await replica.close()
                raise
            self._keep(order)
            self.served[order.deployment_id] = Served(order, replica)
            if before is not None:
                self._leave(retire(before.replica))
            return isolation

    async def unload(self, deployment_id: str, revision: int) -> None:
        """Serve the deployment no longer; orders up to the revision are void from now on."""
        async with self._lock(deployment_id):
            self._fence(deployment_id, revision)
            self._keep(runtime_pb2.LoadModelRequest(deployment_id=deployment_id, revision=revision))
            before = self.served.pop(deployment_id, None)
            if before is not None:
                await retire(before.replica)

    def find(self, name: str, version: str) -> Served:
        """The deployment that answers for a served name; raises Failure NOT_FOUND."""
        found = [
            one
            for one in self.served.values()
            if served_name(one.order) == name and version in ("", one.version)
        ]
        if not found:
            raise unknown(name, version)
        return max(found, key=lambda one: (one.order.environment, one.order.version))

    def versions(self, name: str) -> list[str]:
        """The versions of a served name."""
        found = {
            one.order.version for one in self.served.values() if served_name(one.order) == name
        }
        return [str(version) for version in sorted(found)]

    async def close(self) -> None:
        """End all workers."""
        replicas = [one.replica for one in self.served.values()]
        self.served.clear()
        await asyncio.gather(*(one.close() for one in replicas), *self._leaving)

    def _replica(self, order: runtime_pb2.LoadModelRequest) -> Replica:
        """A replica of the ordered version, starting, under a uid of its own."""
        self._uid += 1
        artifact = deployment_pb2.Artifact()
        artifact.CopyFrom(order.artifact)
        return Replica(
            f"{served_name(order)} version {order.version}",
            order.plugin,
            lambda: artifacts.sealed(self.store, artifact),
            Confinement(self._uid, WORKER_BYTES_MAX, self.empty),
        )

    def _fence(self, deployment_id: str, revision: int) -> None:
        """Refuse what a newer order has overtaken."""
        highest = self.highest.get(deployment_id, 0)
        if revision < highest:
            raise Failure(
                "FAILED_PRECONDITION",
                f"revision {revision} of {deployment_id} is overtaken by {highest}",
                "revision",
            )
        self.highest[deployment_id] = revision

    def _keep(self, order: runtime_pb2.LoadModelRequest) -> None:
        """Write an order to disk so that it is there whole or as it was."""
        path = self.orders / f"{order.deployment_id}.order"
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(order.SerializeToString(deterministic=True))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(self.orders, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _lock(self, deployment_id: str) -> asyncio.Lock:
        """Orders of one deployment are obeyed one after another."""
        return self._locks.setdefault(deployment_id, asyncio.Lock())

    def _leave(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a retired replica finish on its own."""
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


async def retire(replica: Replica) -> None:
    """End a replica to which no route leads any more, when its last request is answered."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            await replica.drained()
    await replica.close()


def served_name(order: runtime_pb2.LoadModelRequest) -> str:
    """The name in inference requests; a model's name has no dot, so it splits in one way only."""
    return f"{order.project_id}.{order.model_name}"


def unknown(name: str, version: str) -> Failure:
    """There is no such model, or not for this caller."""
    told = f" version {shown(version)}" if version else ""
    return Failure("NOT_FOUND", f"no model {shown(name)}{told} is served here", "model_name")
