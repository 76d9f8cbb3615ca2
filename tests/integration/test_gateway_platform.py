"""The gateway as it runs, in front of the real security service: from enrolment to an API key."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import secrets
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.processes import port

from loom.kit.authority import write_secret
from loom.kit.config import Settings
from loom.kit.service import run
from loom.v1 import common_pb2, security_pb2
from loomos.gateway.main import run as run_gateway
from loomos.security.main import SERVICE

PASSWORD = "correct horse battery staple"
ENROLMENT = secrets.token_urlsafe(32)


@contextlib.asynccontextmanager
async def platform_up(
    settings: Callable[..., Settings], ports: tuple[int, int, int]
) -> AsyncIterator[httpx.AsyncClient]:
    """Security and gateway, and a client that trusts their authority."""
    own = settings("security", LOOMOS_LISTEN=f"127.0.0.1:{ports[0]}")
    told = {
        "sha256": hashlib.sha256(ENROLMENT.encode()).hexdigest(),
        "expires_at_us": int((time.time() + 900) * 1e6),
    }
    write_secret(own.credentials / "enrolment.json", json.dumps(told))
    listening = {"LOOMOS_GATEWAY_LISTEN": ports[1], "LOOMOS_LISTEN": ports[2]}
    door = settings("gateway", **{name: f"127.0.0.1:{port}" for name, port in listening.items()})
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


async def post(http: httpx.AsyncClient, path: str, status: int, **given: Any) -> Any:
    answer = await http.post(path, **given)
    assert answer.status_code == status, answer.text
    return answer.json()


async def test_from_enrolment_to_an_api_key(
    fresh_log: Any, fresh_database: Any, settings: Callable[..., Settings]
) -> None:
    async with platform_up(settings, (port(), port(), port())) as http:
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


async def test_a_grpc_client_of_anybodys_comes_in_by_token_and_by_nothing_else(
    fresh_log: Any, fresh_database: Any, settings: Callable[..., Settings]
) -> None:
    ports = (port(), port(), port())
    async with platform_up(settings, ports) as http:
        trust = grpc.ssl_channel_credentials(settings("gateway").ca_certificate.read_bytes())
        async with grpc.aio.secure_channel(f"127.0.0.1:{ports[2]}", trust) as channel:

            async def call(method: str, request: Message, answer: Any, **metadata: str) -> Any:
                made = channel.unary_unary(f"/loom.v1.Security/{method}")
                pairs = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
                data = await made(request.SerializeToString(), metadata=pairs)
                return answer.FromString(data)

            async def refused(*given: Any, **metadata: str) -> grpc.aio.AioRpcError:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await call(*given, **metadata)
                return error.value

            who = ("WhoAmI", security_pb2.WhoAmIRequest(), security_pb2.Identity)
            admin = {"organisation_id": "platform", "user_name": "root", "password": PASSWORD}
            await post(http, "/api/v1/enrolment", 201, json={**admin, "token": ENROLMENT})
            login = security_pb2.LoginRequest(**admin)
            token = (await call("Login", login, security_pb2.Token)).token
            bearer = {"authorization": f"Bearer {token}"}
            assert (await call(*who, **bearer)).organisation_id == "platform"

            assert (await refused(*who)).code() is grpc.StatusCode.UNAUTHENTICATED
            forged = {"authorization": f"Bearer {token[:-4]}AAAA"}
            assert (await refused(*who, **forged)).code() is grpc.StatusCode.UNAUTHENTICATED
            internal = ("RecordLoginFailure", login, common_pb2.Receipt)
            assert (await refused(*internal, **bearer)).code() is grpc.StatusCode.UNIMPLEMENTED

            found = security_pb2.CreateOrganisationRequest(organisation_id="acme")
            create = ("CreateOrganisation", found, common_pb2.Receipt)
            receipt = await call(*create, **bearer, command_id="found-acme", causation_id="forged")
            again = await call(*create, **bearer, command_id="found-acme")
            assert receipt.positions and again.positions == receipt.positions
            found.organisation_id = "A B"
            bad = await refused(*create, **bearer, command_id="bad-1", correlation_id="bad-story")
            assert bad.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "organisation_id" in (bad.details() or "")

            reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            asking = reflection_pb2.ServerReflectionRequest(list_services="")
            names = [
                one.name
                async for answer in reflect(iter([asking]), metadata=tuple(bearer.items()))
                for one in answer.list_services_response.service
            ]
            assert {"loom.v1.Security", "loom.v1.Data", "loom.v1.LoomDb"} <= {*names}
            assert "loom.v1.Runtime" not in names
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await reflect(iter([asking]), metadata=tuple(forged.items())).read()
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
