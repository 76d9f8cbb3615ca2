"""The platform's public doors as real processes, with two tenants, and a witness of the log."""

import asyncio
import hashlib
import json
import secrets
import ssl
import time
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer
from tests.conftest import Platform
from tests.processes import Process, Processes, port

from loom.decider import Position, Recorded
from loom.kit.authority import write_secret
from loom.kit.owners import connected
from loom.log import envelope
from loom.log.judge import Kind
from loom.log.reader import Judged, read_all
from loom.log.topics import connection

__all__ = ["Doors", "Person"]

PASSWORD = "correct horse battery staple"
PATIENCE_SECONDS = 60


class Person:
    """Somebody who is logged in."""

    def __init__(self, doors: "Doors", organisation: str, name: str) -> None:
        told = {"organisation_id": organisation, "user_name": name, "password": PASSWORD}
        self.token: str = doors.post("/api/v1/login", told)["token"]
        self.http = doors.http({"Authorization": f"Bearer {self.token}"})
        self.principal: str = self.http.get("/api/v1/whoami").json()["principal"]

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """A command; a body of bytes goes as it is."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(path, content=raw, headers=given)


class Doors:
    """Security, scheduler, resource manager and gateway, each a process."""

    services = ("security", "resource-manager", "scheduler")

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.processes = Processes(platform)
        self.address = f"127.0.0.1:{port()}"
        self.by_name: dict[str, Process] = {}
        self.clients: list[httpx.Client] = []

    def up(self) -> None:
        """Start all of it, and let two tenants in."""
        token = secrets.token_urlsafe(32)
        told = {
            "sha256": hashlib.sha256(token.encode()).hexdigest(),
            "expires_at_us": int((time.time() + 900) * 1e6),
        }
        secret = self.platform.home.credentials / "security" / "enrolment.json"
        write_secret(secret, json.dumps(told))
        for name in self.services:
            self.by_name[name] = self.processes.add(name)
        more = {"LOOMOS_GATEWAY_LISTEN": self.address}
        self.by_name["gateway"] = self.processes.add("gateway", **more)
        for process in self.by_name.values():
            asyncio.run(process.healthy())
        first = {"organisation_id": "platform", "user_name": "root", "password": PASSWORD}
        self.post("/api/v1/enrolment", first | {"token": token})
        self.root = Person(self, "platform", "root")
        for organisation in ("acme", "other"):
            self.found(organisation)
        self.named()

    def named(self) -> None:
        """Log those in whom every test knows."""
        self.ada, self.eve = Person(self, "acme", "ada"), Person(self, "other", "ada")

    def found(self, organisation: str) -> None:
        """An organisation with a project and somebody who may use it."""
        project = f"{organisation}.vision"
        grant = {"role": "USER_ROLE_RESEARCHER", "scope_id": project}
        for path, body in (
            ("/api/v1/organisations", {}),
            ("/api/v1/projects", {"project_id": project}),
            ("/api/v1/users", {"user_name": "ada", "password": PASSWORD, "roles": [grant]}),
        ):
            made = self.root.post(path, {"organisation_id": organisation} | body)
            assert made.status_code == 201, made.text

    def down(self) -> None:
        """Stop all of it."""
        for client in self.clients:
            client.close()
        self.processes.stop()

    def http(self, headers: dict[str, str]) -> httpx.Client:
        """A client that trusts the platform's authority."""
        trust = ssl.create_default_context(
            cafile=str(self.by_name["gateway"].settings.ca_certificate)
        )
        base = f"https://{self.address}"
        client = httpx.Client(verify=trust, base_url=base, timeout=60, headers=headers)
        self.clients.append(client)
        return client

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """A stranger's call, again until the services know each other."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self.http({}) as http:
            while True:
                answer = http.post(path, json=body)
                if answer.is_success:
                    return answer.json()
                assert time.monotonic() < deadline, answer.text
                time.sleep(0.5)

    def tell(self, person: Person, request: Any, command_id: str) -> Any:
        """A command over gRPC, as the gateway sends it."""

        async def told() -> Any:
            async with connected(self.platform.settings("gateway"), "gateway") as client:
                return await client.tell(request, bearer=person.token, command_id=command_id)

        return asyncio.run(told())

    def records(self, service: str) -> list[Judged]:
        """Every record of a service's topic, void ones too."""
        return asyncio.run(read_all(self.platform.administrator, f"loomos.{service}"))

    def events(self, service: str, principal: str) -> list[Recorded]:
        """What somebody's commands left in a service's topic."""
        topic = f"loomos.{service}"
        valid = [one for one in self.records(service) if one.verdict.kind == Kind.EVENT]
        found = [
            envelope.read(one.headers, one.value, one.key, Position(topic, 0, one.offset), 0)
            for one in valid
        ]
        return [one for one in found if one.actor == principal]

    def write(self, topic: str, records: list[tuple[Any, Any, Any]]) -> list[int]:
        """Put records (key, value, headers) into a topic with an administrator's rights."""

        async def sent() -> list[int]:
            producer = AIOKafkaProducer(
                **connection(self.platform.administrator), max_request_size=1_048_576
            )
            await producer.start()
            try:
                return [
                    (await producer.send_and_wait(topic, value, key, headers=headers)).offset
                    for key, value, headers in records
                ]
            finally:
                await producer.stop()

        return asyncio.run(sent())
