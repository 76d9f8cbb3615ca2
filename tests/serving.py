"""A home with a runtime, its people and its deployment service, for tests that serve models."""

import asyncio
import hashlib
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import psutil

from loom.decider import Resource
from loom.kit.authority import Authority
from loom.kit.authorize import Caller, Decision, Decisions, Policies, Scope
from loom.kit.client import Client
from loom.kit.config import Settings
from loom.kit.errors import Failure
from loom.kit.view import Account, View
from loom.v1 import deployment_pb2, runtime_pb2
from loomos.runtime.main import Runtime

__all__ = ["ADA", "DEPLOYMENT", "EVE", "MODEL", "Judge", "World"]

MODEL = "acme.vision.digits"
ADA, EVE = f"usr-acme-{20 * 'a'}", f"usr-other-{20 * 'e'}"
DEPLOYMENT = "deployment-acme.vision-" + "a" * 20


class Judge:
    """The real policies on a small, fixed view."""

    def __init__(self) -> None:
        self.view = View()
        self.view.organisations |= {"acme", "other"}
        self.view.projects |= {"acme.vision": "acme", "other.secret": "other"}
        for name, organisation in ((ADA, "acme"), (EVE, "other")):
            self.view.users[name] = Account(organisation, roles={("researcher", organisation)})
        self.decisions = Decisions(Policies.load(), self.view)

    def may(self, principal: str, action: str, resource: Resource) -> Decision:
        return self.decisions.may(principal, action, resource)

    def scope(self, principal: str, action: str) -> Scope:
        return self.decisions.scope(principal, action)


class World:
    """One home with a runtime in it, its people and its deployment service."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = home / "artifacts"
        self.store.mkdir()
        self.judge = Judge()
        self.authority = Authority.open(home / "ca")
        self.runtime: Runtime | None = None
        self.orders = Client(self.settings("deployment"), self.resolve)

    def settings(self, service: str) -> Settings:
        self.authority.issue(self.home / "credentials" / service, "service", service)
        return Settings.load(service, {"LOOMOS_HOME": str(self.home)})

    async def resolve(self, service: str, shard: str) -> str:
        assert self.runtime is not None
        return self.runtime.control_address

    async def authenticate(self, spiffe: str | None, bearer: str | None) -> Caller:
        if bearer in ("ada", "eve"):
            user = {"ada": ADA, "eve": EVE}[bearer]
            return Caller(f"user:{user}", user.split("-")[1], "user", self.judge)
        if bearer is None and spiffe is not None:
            name = spiffe.rpartition("/")[2]
            return Caller(f"service:{name}", "platform", "service", self.judge)
        raise Failure("UNAUTHENTICATED", "the token proves nobody")

    def artifact(self, content: bytes, location: str = "jobs/one/model.npz") -> Any:
        path = self.store / location
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        file = deployment_pb2.ArtifactFile(
            path="model.npz",
            sha256=hashlib.sha256(content).digest(),
            size_bytes=len(content),
            location=location,
        )
        return deployment_pb2.Artifact(files=[file])

    async def load(self, artifact: Any, revision: int = 1, **more: Any) -> Any:
        order = {
            "deployment_id": DEPLOYMENT,
            "revision": revision,
            "project_id": "acme.vision",
            "model_name": "digits",
            "version": revision,
            "environment": deployment_pb2.ENVIRONMENT_STAGING,
            "plugin": "sklearn-linear",
        }
        request = runtime_pb2.LoadModelRequest(**{**order, "artifact": artifact, **more})
        return await self.orders.tell(request, timeout_s=30)

    async def call(self, method: str, request: Any, answer: Any, token: str = "ada") -> Any:
        assert self.runtime is not None
        credentials = grpc.ssl_channel_credentials(self.authority.certificate_pem)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        async with grpc.aio.secure_channel(self.runtime.grpc_address, credentials) as channel:
            invoke = channel.unary_unary(
                f"/inference.GRPCInferenceService/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=answer.FromString,
            )
            return await invoke(request, metadata=metadata, timeout=30)

    async def web(
        self,
        path: str,
        body: Any = None,
        token: str = "ada",
        raw: bytes | None = None,
        **headers: str,
    ) -> tuple[int, Any]:
        assert self.runtime is not None
        context = ssl.create_default_context(cadata=self.authority.certificate_pem.decode())
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.runtime.rest_url + path, data)
        request.add_header("content-type", "application/json")
        if token:
            request.add_header("authorization", f"Bearer {token}")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)

        def ask() -> tuple[int, Any]:
            try:
                with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                    return answer.status, json.loads(answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, json.loads(error.read())

        return await asyncio.to_thread(ask)

    def worker(self) -> psutil.Process:
        assert self.runtime is not None
        process = self.runtime.models.served[DEPLOYMENT].replica.process
        assert process is not None
        return psutil.Process(process.child.pid)
