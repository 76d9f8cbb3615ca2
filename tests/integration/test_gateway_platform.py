"""The gateway as it runs, in front of the real security service: from enrolment to an API key."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import secrets
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from loom.kit.authority import write_secret
from loom.kit.config import Settings
from loom.kit.service import run
from loomos.gateway.main import run as run_gateway
from loomos.security.main import SERVICE

PASSWORD = "correct horse battery staple"
ENROLMENT = secrets.token_urlsafe(32)


@contextlib.asynccontextmanager
async def platform_up(
    settings: Callable[..., Settings], ports: tuple[int, int]
) -> AsyncIterator[httpx.AsyncClient]:
    """Security and gateway, and a client that trusts their authority."""
    own = settings("security", LOOMOS_LISTEN=f"127.0.0.1:{ports[0]}")
    told = {
        "sha256": hashlib.sha256(ENROLMENT.encode()).hexdigest(),
        "expires_at_us": int((time.time() + 900) * 1e6),
    }
    write_secret(own.credentials / "enrolment.json", json.dumps(told))
    door = settings("gateway", LOOMOS_GATEWAY_LISTEN=f"127.0.0.1:{ports[1]}")
    gateway = asyncio.create_task(run_gateway(door))
    await asyncio.sleep(0)
    service = asyncio.create_task(run(SERVICE, own))
    trust = ssl.create_default_context(cafile=str(door.ca_certificate))
    try:
        async with httpx.AsyncClient(
            verify=trust, base_url=f"https://127.0.0.1:{ports[1]}", timeout=60
        ) as http:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await http.get("/healthz")
                    break
                await asyncio.sleep(0.1)
            yield http
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(service, 30)
        gateway.cancel()
        await asyncio.gather(gateway, return_exceptions=True)


def another_port() -> int:
    """A second port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def post(http: httpx.AsyncClient, path: str, status: int, **given: Any) -> Any:
    answer = await http.post(path, **given)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_from_enrolment_to_an_api_key(
    fresh_log: Any, fresh_database: Any, settings: Callable[..., Settings], free_port: int
) -> None:
    async with platform_up(settings, (free_port, another_port())) as http:
        admin = {"organisation_id": "platform", "user_name": "root", "password": PASSWORD}
        receipt = await post(http, "/api/v1/enrolment", 201, json={**admin, "token": ENROLMENT})
        token = (await post(http, "/api/v1/login", 200, json=admin))["token"]
        bearer = {"Authorization": f"Bearer {token}"}
        me = (await http.get("/api/v1/whoami", headers=bearer)).json()
        assert receipt["id"] in json.dumps(me)

        secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
        made = await post(
            http,
            "/api/v1/api-keys",
            201,
            headers=bearer,
            json={
                "user_id": receipt["id"],
                "name": "laptop",
                "secret_sha256": base64.b64encode(
                    hashlib.sha256(secret.encode()).digest()
                ).decode(),
            },
        )
        key = {"X-API-Key": f"lk_{made['id']}_{secret}"}
        assert (await http.get("/api/v1/whoami", headers=key)).json() == me
        wrong = {"X-API-Key": f"lk_{made['id']}_{secret[:-2]}xx"}
        assert (await http.get("/api/v1/whoami", headers=wrong)).status_code == 401
        forged = {"Authorization": f"Bearer {token[:-4]}AAAA"}
        assert (await http.get("/api/v1/whoami", headers=forged)).status_code == 401

        bad = await http.post("/api/v1/organisations", headers=key, json={"organisation_id": "A B"})
        assert (bad.status_code, bad.json()["field"]) == (400, "organisation_id")
        assert (await http.get("/api/v1/users/usr-none-x", headers=key)).status_code in (400, 404)
