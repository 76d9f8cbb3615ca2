"""A model fails in production before a real runtime; an alert tries it again; the log tells why."""

import asyncio
import hashlib
import io
import json
import uuid

import numpy as np
import pytest
from tests.doors import Person
from tests.processes import loomos, port
from tests.streaming import Streams, until

from loom.kit.owners import connected
from loom.v1 import deployment_pb2 as pb
from loomos.cli.session import new_secret

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROJECT = "acme.vision"
PRODUCTION = "ENVIRONMENT_PRODUCTION"


class Production(Streams):
    """What serves models and what watches it, and one person at a terminal."""

    services = ("security", "data", "deployment", "loomdb")

    def up(self) -> None:
        """Start all of it, the runtime last; boss gets a key for the command line."""
        super().up()
        inference = {f"LOOMOS_INFERENCE_{name}": f"127.0.0.1:{port()}" for name in ("REST", "GRPC")}
        self.by_name["runtime"] = self.processes.add("runtime", **inference)
        # Where it listens stands where the supervisor says it.
        self.platform.home.write_state(
            {
                "version": 1,
                "services": {"runtime": {"address": self.by_name["runtime"].settings.listen}},
            }
        )
        asyncio.run(self.by_name["runtime"].healthy())
        told = {"organisation_id": "acme", "project_id": PROJECT}
        self.command(self.root, "/api/v1/projects", **told)
        self.boss: Person = self.people["boss@acme"]
        secret, digest = new_secret()
        user = self.boss.principal.removeprefix("user:")
        made = self.command(
            self.boss, "/api/v1/api-keys", user_id=user, name="cli", secret_sha256=digest
        )
        self.key = f"lk_{made['id']}_{secret}"

    def down(self) -> None:
        """Stop all of it."""
        self.platform.home.clear_state()
        super().down()

    def loomos(self, *words: str) -> str:
        """What the command line prints."""
        environ = {
            "LOOMOS_HOME": str(self.platform.home.path),
            "LOOMOS_API_KEY": self.key,
            "LOOMOS_GATEWAY": f"https://{self.address}",
            "LOOMOS_CA": str(self.by_name["gateway"].settings.ca_certificate),
        }
        result = loomos(environ, *words)
        assert result.returncode == 0, (words, result.stderr)
        return result.stdout

    def listed(self, *words: str) -> list[dict]:
        """What the command line prints as JSON, one object a line."""
        return [json.loads(line) for line in self.loomos(*words, "--json").splitlines()]

    def register(self) -> tuple[object, bytes]:
        """A version whose file in the store is damaged; where the file is, and how it should be."""
        whole = io.BytesIO()
        np.savez(whole, coef=np.eye(3), intercept=np.zeros(3), classes=np.arange(3))
        file = self.platform.home.path / "artifacts" / PROJECT / uuid.uuid4().hex
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"damaged")
        request = pb.RegisterModelVersionRequest(
            project_id=PROJECT,
            model_name="digits",
            plugin="sklearn-linear",
            lineage=pb.Lineage(job_id="job-local-a", run=1),
        )
        request.artifact.files.add(
            path="model.npz",
            sha256=hashlib.sha256(whole.getvalue()).digest(),
            size_bytes=len(whole.getvalue()),
            location=f"{PROJECT}/{file.name}",
        )
        asyncio.run(self.told_as_deployment(request))
        return file, whole.getvalue()

    async def told_as_deployment(self, request: object) -> None:
        """A command in the name of the service that registers what jobs trained."""
        async with connected(self.platform.settings("deployment"), "deployment") as client:
            await client.tell(request)


@pytest.fixture(scope="module")
def production(module_platform):
    found = Production(module_platform)
    try:
        found.up()
        yield found
    finally:
        found.down()


def test_a_failure_in_production_is_a_critical_alert_and_is_deployed_again(production):
    file, whole = production.register()
    production.loomos(
        "alerts", "rules", "create", "production-failed", "--type", "deployment.failed",
        "--where", f"payload.environment = {PRODUCTION}", "--severity", "critical",
        "--cooldown", "5s", "--retry", "5",
    )  # fmt: skip
    until(lambda: production.listed("alerts", "rules", "list"))
    production.loomos("deploy", "digits", "--project", PROJECT, "--to", "production")

    http = production.boss.http
    until(lambda: http.get("/api/v1/organisations/acme/alerts").json()["alerts"])
    # The runtime dies too: what is tried again waits for the next one.
    production.by_name["runtime"].kill()
    file.write_bytes(whole)
    production.by_name["runtime"].start()
    alerts = production.listed("alerts", "list")
    assert alerts[-1]["raised"]["severity"] == "ALERT_SEVERITY_CRITICAL"

    def active():
        page = http.get("/api/v1/deployments", params={"project_id": PROJECT}).json()
        return page["deployments"][0]["status"] == "DEPLOYMENT_STATUS_ACTIVE"

    until(active, 90)
    (served,) = production.listed("deployments", "--project", PROJECT)
    assert served["environment"] == PRODUCTION and int(served["revision"]) >= 2
    url = f"{served['endpoint']['rest_url']}/v2/models/{served['endpoint']['served_name']}/ready"
    assert production.boss.http.get(url).status_code == 200, "it is really served"

    raised = alerts[-1]["raised"]
    failed = raised["cause"]["event_id"]
    chain = until(lambda: chain_of(production, failed), 60)
    types = [kind for _, kind in chain]
    assert types[:3] == ["deployment.failed", "alert.raised", "deployment.requested"]
    assert chain[:3] == list(enumerate(types[:3]))
    (last,) = [
        one["event"]["event_id"]
        for one in production.listed("events", "effects", failed)
        if one["event"]["type"] == "deployment.activated"
    ]
    back = [one["event"]["type"] for one in production.listed("events", "causes", last)]
    assert {"deployment.failed", "alert.raised"} <= {*back}
    assert back[-1] == "deployment.requested", "and back to what boss asked for"
    text = production.loomos("events", "effects", failed)
    assert text.index("deployment.failed") < text.index("alert.raised") < text.index("requested")


def chain_of(production: Production, failed: str) -> list[tuple[int, str]]:
    """Depth and type of all that a failure led to, once something of it is served."""
    walked = production.listed("events", "effects", failed)
    found = [(int(one.get("depth", 0)), one["event"]["type"]) for one in walked]
    return found if any(kind == "deployment.activated" for _, kind in found) else []
