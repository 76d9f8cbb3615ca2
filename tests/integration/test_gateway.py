"""The REST doors over HTTPS, in front of a real gRPC service."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import probe
import pytest
from test_rpc import World, settings

from loom.decider import Code, Position, Rejected
from loom.kit.errors import Failure
from loom.log.clock import now_us
from loom.v1 import security_pb2
from loomos.gateway.main import serve
from loomos.gateway.rest import Rest

KEY = "lk_key-acme-abcdefghijklmnopqrst_" + "s" * 43
ANN = {"Authorization": "Bearer user.ann"}
BODY = {"project_id": "acme.vision", "name": "first"}


class Door:
    """A gateway with a client that trusts its authority."""

    def __init__(self, world: World, rest: Rest, http: httpx.AsyncClient) -> None:
        self.world = world
        self.rest = rest
        self.http = http
        self.exchanges: list[Any] = []
        rest.identities.tell = self.issue

    async def issue(self, request: Any) -> Any:
        """Security's answer to IssueToken."""
        self.exchanges.append(request)
        if request.secret != "s" * 43:
            raise Failure("UNAUTHENTICATED", "no such key")
        return security_pb2.Token(token="user.bob", expires_at_us=now_us() + 300_000_000)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    world = await World(tmp_path).open()
    rest = Rest(world.client(name="gateway"), [probe.contract().DESCRIPTOR], [probe.commented()])
    stopping = asyncio.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(
        serve(rest, settings(tmp_path, "service", "gateway"), listener, stopping)
    )
    trust = ssl.create_default_context(cafile=str(world.settings.ca_certificate))
    port = listener.getsockname()[1]
    async with httpx.AsyncClient(verify=trust, base_url=f"https://127.0.0.1:{port}") as http:
        yield Door(world, rest, http)
    stopping.set()
    await serving
    await world.close()


async def test_a_command_answers_its_receipt(door: Door) -> None:
    answer = await door.http.post(
        "/api/v1/probes",
        json=BODY,
        headers={**ANN, "Idempotency-Key": "k-1", "X-Correlation-Id": "story-1"},
    )
    assert answer.status_code == 201
    assert answer.json()["command_id"] == "k-1"
    assert answer.headers["x-correlation-id"] == "story-1"
    assert answer.headers["x-loomos-position"] == "loomos.probe:0:7:0"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in answer.headers["strict-transport-security"]
    request, call = door.world.doors.told[0]
    assert request.name == "first"
    assert (call.caller.principal, call.command_id) == ("user:ann", "k-1")
    ended = await door.http.post("/api/v1/probes/probe-a:end", json={}, headers=ANN)
    assert (ended.status_code, ended.content) == (204, b"")


async def test_a_query_waits_for_what_it_must_have_seen(door: Door) -> None:
    given = {**ANN, "X-Loomos-After": "loomos.probe:0:7:0"}
    answer = await door.http.get(
        "/api/v1/probes?moods=MOOD_CALM&after=loomos.probe:1:3", headers=given
    )
    assert answer.json()["probes"][0]["mood"] == "MOOD_CALM"
    _, request, call = door.world.doors.asked[0]
    assert list(request.moods) == [1]
    assert call.after == (Position("loomos.probe", 0, 7, 0), Position("loomos.probe", 1, 3, 0))
    bad = await door.http.get("/api/v1/probes?after=yesterday", headers=ANN)
    assert (bad.status_code, bad.json()["field"]) == (400, "after")


async def test_an_api_key_is_exchanged_once_and_a_wrong_one_never_reaches_a_service(
    door: Door,
) -> None:
    answers = await asyncio.gather(
        *(door.http.get("/api/v1/probes/probe-1", headers={"X-API-Key": KEY}) for _ in range(5))
    )
    assert {one.json()["principal"] for one in answers} == {"user:bob"}
    assert len(door.exchanges) == 1
    for wrong in ("lk_x", KEY[:-1] + "t", "hello\x7f"):
        refused = await door.http.get("/api/v1/probes/probe-1", headers={"X-API-Key": wrong})
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == "Bearer"
    assert len(door.world.doors.asked) == 5
    both = await door.http.get("/api/v1/probes/probe-1", headers={"X-API-Key": KEY, **ANN})
    assert both.status_code == 401


async def test_guessing_keys_is_slowed_down(door: Door) -> None:
    codes = [
        (await door.http.get("/api/v1/probes/x", headers={"X-API-Key": f"lk_{n}"})).status_code
        for n in range(25)
    ]
    assert codes[0] == 401
    assert codes[-1] == 429


async def test_strangers_reach_the_anonymous_only_and_slowly(door: Door) -> None:
    refused = await door.http.get("/api/v1/probes/probe-1")
    assert refused.status_code == 401
    codes = [(await door.http.get("/api/v1/greeting")).status_code for _ in range(30)]
    assert codes[0] == 200
    assert codes[-1] == 429
    forged = {"Authorization": "Bearer forged"}
    assert (await door.http.get("/api/v1/probes/probe-1", headers=forged)).status_code == 401


async def test_a_refusal_is_a_problem_document(door: Door) -> None:
    door.world.doors.failures = [Rejected(Code.NOT_FOUND, "no probe 'probe-9'", "probe_id")]
    answer = await door.http.get("/api/v1/probes/probe-9", headers=ANN)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["field"], problem["status"]) == ("NOT_FOUND", "probe_id", 404)
    assert problem["correlation_id"] == answer.headers["x-correlation-id"]
    door.world.doors.failures = [ZeroDivisionError("secret.py")]
    fault = await door.http.get("/api/v1/probes/probe-9", headers=ANN)
    assert fault.status_code == 500
    assert "secret.py" not in fault.text


BAD_BODIES = [
    ({**BODY, "colour": 1}, "colour"),
    ({**BODY, "limits": {"memory_bytes": -1}}, "limits.memory_bytes"),
    ({**BODY, "limits": {"memory_bytes": 2**63}}, "limits.memory_bytes"),
    ({**BODY, "limits": {"memory_bytes": 1e308}}, "limits.memory_bytes"),
    ({**BODY, "limits": {"share": "NaN"}}, "limits.share"),
    ({**BODY, "name": ""}, "name"),
    ({**BODY, "name": "x" * 1_000_000}, "name"),
    ({**BODY, "name": "../../etc/passwd"}, "name"),
    ({**BODY, "note": "ring \x07"}, "note"),
    ({**BODY, "note": "y" * 1_000_000}, "note"),
    ({**BODY, "mood": 9}, "mood"),
    ({**BODY, "name": ["first"]}, "name"),
]


@pytest.mark.parametrize(("body", "field"), BAD_BODIES)
async def test_bad_bodies_are_refused_by_field(door: Door, body: Any, field: str) -> None:
    answer = await door.http.post("/api/v1/probes", json=body, headers=ANN)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert len(answer.content) < 4000
    assert not door.world.doors.told


async def test_bodies_that_are_no_json_are_refused(door: Door) -> None:
    async def post(data: bytes, **headers: str) -> int:
        given = {**ANN, "Content-Type": "application/json", **headers}
        return (await door.http.post("/api/v1/probes", content=data, headers=given)).status_code

    assert await post(b'{"limits":{"share":NaN}}') == 400
    assert await post(b'{"name":"a","name":"b"}') == 400
    assert await post(b"[" * 100_000) == 400
    assert await post(b"x" * (4 * 1024 * 1024 + 1)) == 413
    assert await post(b"{}", **{"Content-Type": "text/plain"}) == 415
    assert await post(b"{}", **{"Content-Encoding": "gzip"}) == 415
    assert await post(b"{}", **{"Idempotency-Key": "a b"}) == 400
    assert await post(b"{}", **{"X-Correlation-Id": "x" * 65}) == 400
    assert not door.world.doors.told


async def test_what_is_not_routed_is_a_problem_too(door: Door) -> None:
    for verb, path, status in (
        ("GET", "/nowhere", 404),
        ("DELETE", "/api/v1/probes", 405),
        ("POST", "/api/v1/probes:sweep", 404),
        ("GET", "/api/v1/probes/..%2f..%2fetc", 404),
    ):
        answer = await door.http.request(verb, path, headers=ANN)
        assert (answer.status_code, answer.json()["status"]) == (status, status)
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("accept", "content"),
    [
        ("application/x-ndjson", b'{"text":"one\\n"}\n{"text":"two\\n"}\n'),
        ("text/event-stream", b'data: {"text":"one\\n"}\n\ndata: {"text":"two\\n"}\n\n'),
        ("text/plain", b"one\ntwo\n"),
    ],
)
async def test_streams_have_three_forms(door: Door, accept: str, content: bytes) -> None:
    answer = await door.http.get("/api/v1/probes/probe-1/lines", headers={**ANN, "Accept": accept})
    assert answer.headers["content-type"].startswith(accept)
    assert answer.content == content


async def test_a_refused_stream_is_a_problem(door: Door) -> None:
    door.world.doors.failures = [Rejected(Code.NOT_FOUND, "no probe")]
    answer = await door.http.get("/api/v1/probes/probe-1/lines", headers=ANN)
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    picture = {**ANN, "Accept": "image/png"}
    assert (await door.http.get("/api/v1/probes/p/lines", headers=picture)).status_code == 406


async def test_the_page_and_its_document_are_served(door: Door) -> None:
    api = (await door.http.get("/openapi.json")).json()
    assert api["openapi"] == "3.1.0"
    assert api["servers"][0]["url"].startswith("https://127.0.0.1:")
    page = await door.http.get("/docs")
    assert "docs.js" in page.text
    assert "http" not in page.text.replace("https://", "http").split("<main")[1]
    assert (await door.http.get("/docs.js")).headers["content-type"].startswith("text/javascript")
    assert (await door.http.get("/healthz")).json() == {"status": "SERVING"}
    assert json.dumps(api)
