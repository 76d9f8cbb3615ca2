"""From a registered version to a served one: deployment on a real log, a real runtime behind it."""

import asyncio
import contextlib
import hashlib
import io
import json
import shutil
import uuid
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from tests.callers import Judge

from loom.kit.authorize import Caller
from loom.kit.client import Client
from loom.kit.rpc import serve
from loom.kit.service import Shell
from loom.v1 import deployment_pb2 as pb
from loom.v1 import runtime_pb2
from loomos.deployment import watch
from loomos.deployment.main import SERVICE
from loomos.runtime import replica
from loomos.runtime.main import Runtime, running


class Everybody(Judge):
    """Knows services by their certificates."""

    async def authenticate(self, spiffe: str | None, bearer: str | None) -> Caller:
        return self.service_caller(str(spiffe).rpartition("/")[2])


class World:
    def __init__(self, platform: Any, settings: Any) -> None:
        self.project = f"acme.p{uuid.uuid4().hex[:8]}"
        self.everybody: Any = Everybody()
        self.runtime_settings = settings("runtime")
        self.store = self.runtime_settings.home / "artifacts" / self.project
        self.store.mkdir(parents=True, exist_ok=True)
        for service in ("runtime", "deployment", "scheduler"):
            folder = platform.home.credentials / service
            platform.authority.issue(folder, "service", service)
        self.shell = Shell(SERVICE, settings("deployment"))
        self.shell.authorizer = self.everybody
        self.shell.client = Client(self.shell.settings, self.resolve)
        self.client = Client(settings("scheduler"), self.resolve)
        self.runtime: Runtime | None = None
        self.stack = contextlib.AsyncExitStack()

    async def resolve(self, service: str, shard: str) -> str:
        if service == "deployment":
            return self.shell.address
        assert self.runtime is not None
        return self.runtime.control_address

    def artifact(self, accuracy: float, spoil: bool = False) -> pb.Artifact:
        model = io.BytesIO()
        np.savez(model, coef=np.eye(3), intercept=np.zeros(3), classes=np.arange(3))
        metrics = {"accuracy": accuracy, "precision": accuracy, "recall": accuracy}
        artifact = pb.Artifact()
        for name, data in (
            ("model.npz", model.getvalue()),
            ("metrics.json", json.dumps(metrics).encode()),
        ):
            location = f"{uuid.uuid4().hex}-{name}"
            (self.store / location).write_bytes(
                b"spoiled" if spoil and name == "model.npz" else data
            )
            artifact.files.add(
                path=name,
                sha256=hashlib.sha256(data).digest(),
                size_bytes=len(data),
                location=f"{self.project}/{location}",
            )
        return artifact

    async def register(self, accuracy: float, run: int, spoil: bool = False) -> Any:
        request = pb.RegisterModelVersionRequest(
            project_id=self.project,
            model_name="digits",
            plugin="sklearn-linear",
            lineage=pb.Lineage(job_id="job-local-a", run=run),
            artifact=self.artifact(accuracy, spoil),
        )
        return await self.client.tell(request)

    async def deployment(self, status: int, revision: int) -> pb.ModelDeployment:
        """The project's one deployment, once it is in this state."""
        while True:
            listed: Any = await self.client.ask(pb.ListDeploymentsRequest(project_id=self.project))
            for one in listed.deployments:
                if (one.status, one.revision) == (status, revision):
                    return one
            await asyncio.sleep(0.05)

    async def served(self) -> list[int]:
        assert self.runtime is not None
        listed = self.runtime.models.served.values()
        return [one.order.version for one in listed if one.order.project_id == self.project]

    async def restarted(self) -> None:
        """The runtime is stopped; with what is on its disk another begins."""
        await self.stack.aclose()
        self.stack = contextlib.AsyncExitStack()
        self.runtime = await self.stack.enter_async_context(
            running(self.runtime_settings, self.everybody.authenticate)
        )


@pytest.fixture
async def world(platform: Any, settings: Any) -> AsyncIterator[World]:
    world = World(platform, settings)
    shell = world.shell
    await shell.store.open()
    await shell.store.prepare(SERVICE.schema)
    door = await serve(SERVICE.contract, shell, shell.settings, world.everybody.authenticate)
    shell.address = door.address
    shell.owner = f"deployment@{door.address}"
    owning = asyncio.create_task(shell.ownership.own(0))
    try:
        await world.restarted()
        serving = asyncio.create_task(shell.ownership.serving())
        await asyncio.wait((serving, owning), return_when=asyncio.FIRST_COMPLETED)
        if owning.done():
            owning.result()
        yield world
        assert not owning.done()
    finally:
        await world.stack.aclose()
        owning.cancel()
        await asyncio.gather(owning, return_exceptions=True)
        await shell.store.release_lease(SERVICE.topic, 0, shell.owner)
        await door.stop(0)
        await world.client.close()
        await shell.client.close()
        await shell.store.close()


async def test_a_good_model_is_served_updated_degraded_rolled_back_and_ended(world: World) -> None:
    async with asyncio.timeout(90):
        receipt = await world.register(0.95, run=1)
        first = await world.deployment(pb.DEPLOYMENT_STATUS_ACTIVE, 1)
        assert first.endpoint.served_name == f"{world.project}.digits"
        assert (first.serving_version, first.policy_version) == (1, "auto-staging/1")
        version: Any = await world.client.ask(
            pb.GetModelVersionRequest(model_id=receipt.id, version=1)
        )
        assert version.stage == pb.MODEL_STAGE_STAGING
        assert version.metrics[0].value_ppm == 950_000

        await world.register(0.5, run=2)
        await world.register(0.9, run=3)
        second = await world.deployment(pb.DEPLOYMENT_STATUS_ACTIVE, 2)
        assert (second.serving_version, await world.served()) == (3, [3])

        await world.register(0.9, run=4, spoil=True)
        third = await world.deployment(pb.DEPLOYMENT_STATUS_DEGRADED, 3)
        assert "not the file that was registered" in third.reason
        assert (third.serving_version, await world.served()) == (3, [3])

        await world.client.tell(
            pb.RollbackDeploymentRequest(deployment_id=first.deployment_id, revision=1)
        )
        fourth = await world.deployment(pb.DEPLOYMENT_STATUS_ACTIVE, 4)
        assert (fourth.serving_version, await world.served()) == (1, [1])

        await world.client.tell(pb.TerminateDeploymentRequest(deployment_id=first.deployment_id))
        await world.deployment(pb.DEPLOYMENT_STATUS_TERMINATED, 4)
        assert await world.served() == []
        listed: Any = await world.shell.client.ask(runtime_pb2.ListServedModelsRequest())
        assert not [one for one in listed.models if one.deployment_id == first.deployment_id]


@pytest.mark.parametrize("damage", ["artifact", "orders"])
async def test_what_a_restarted_runtime_cannot_serve_is_failed_in_the_log(
    world: World, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(watch, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(replica, "FAILED_STARTS_MAX", 2)
    watching = asyncio.create_task(watch.watch(world.shell))
    try:
        async with asyncio.timeout(90):
            receipt = await world.register(0.95, run=1)
            first = await world.deployment(pb.DEPLOYMENT_STATUS_ACTIVE, 1)
            await world.restarted()
            assert not await watch.lost(world.shell), "its worker may be on its way"
            if damage == "artifact":
                kept = {path: path.read_bytes() for path in world.store.iterdir()}
                for path in kept:
                    path.write_bytes(b"spoiled")
            else:
                kept = {}
                shutil.rmtree(world.runtime_settings.home / "runtime")
            await world.restarted()
            lost = await world.deployment(pb.DEPLOYMENT_STATUS_FAILED, 1)
            told = "not the file that was registered" if kept else "does not know it any more"
            assert told in lost.reason
            assert (lost.serving_revision, lost.endpoint.served_name) == (0, "")
            for path, content in kept.items():
                path.write_bytes(content)
            await world.client.tell(
                pb.DeployModelRequest(
                    model_id=receipt.id, version=1, environment=pb.ENVIRONMENT_STAGING
                )
            )
            again = await world.deployment(pb.DEPLOYMENT_STATUS_ACTIVE, 2)
            assert (again.deployment_id, await world.served()) == (first.deployment_id, [1])
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
