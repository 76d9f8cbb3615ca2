"""The gRPC door and its client, on real sockets with real certificates."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import probe
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from loom.decider import Code, Position, Rejected
from loom.kit import tls
from loom.kit.authority import Authority
from loom.kit.client import Client
from loom.kit.config import Settings
from loom.kit.errors import WRONG_OWNER, Failure
from loom.kit.rpc import Served, serve


def settings(home: Path, kind: str, name: str) -> Settings:
    folder = home / "credentials" / name
    Authority.open(home / "ca").issue(folder, kind, name)
    return Settings.load(name, {"LOOMOS_HOME": str(home), "LOOMOS_LISTEN": "127.0.0.1:0"})


class World:
    """One service that is served, and whoever calls it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.doors = probe.Doors()
        self.clients: list[Client] = []
        self.addresses: list[str] = []

    async def open(self) -> "World":
        self.settings = settings(self.home, "service", "probe")
        self.served = await self.serve(self.doors)
        return self

    async def serve(self, doors: Any) -> Served:
        served = await serve(probe.contract(), doors, self.settings, probe.authenticate)
        self.addresses.append(served.address)
        return served

    def client(self, kind: str = "service", name: str = "scheduler") -> Client:
        async def resolve(service: str, shard: str) -> str:
            return self.addresses[0]

        client = Client(settings(self.home, kind, name), resolve)
        self.clients.append(client)
        return client

    async def close(self) -> None:
        for client in self.clients:
            await client.close()
        await self.served.stop(0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await World(tmp_path).open()
    yield world
    await world.close()


def create(**more: Any) -> Any:
    return probe.contract().CreateProbeRequest(
        **{"project_id": "acme.vision", "name": "first", **more}
    )


async def test_a_command_is_told_with_the_callers_identity_and_ids(world: World) -> None:
    receipt: Any = await world.client().tell(
        create(), command_id="c-1", correlation_id="story", causation_id="cause"
    )
    request, call = world.doors.told[0]
    assert request == create()
    assert call.caller.principal == "service:scheduler"
    assert (call.command_id, call.correlation_id, call.causation_id) == ("c-1", "story", "cause")
    assert receipt.command_id == "c-1"
    assert call.deadline_s is not None
    assert call.issued_at_us > 0
    assert call.traceparent.startswith("00-")


async def test_a_query_carries_the_positions_it_must_have_seen(world: World) -> None:
    after = (Position("loomos.probe", 3, 99, 1),)
    answer: Any = await world.client().ask(
        probe.contract().GetProbeRequest(probe_id="probe-1"), after=after
    )
    method, _, call = world.doors.asked[0]
    assert (method, call.after, answer.probe_id) == ("GetProbe", after, "probe-1")


async def test_a_service_with_a_token_acts_for_its_user(world: World) -> None:
    await world.client(name="gateway").tell(create(), bearer="user.ann")
    assert world.doors.told[0][1].caller.principal == "user:ann"


async def test_a_node_may_not_act_for_a_user(world: World) -> None:
    with pytest.raises(Failure) as refused:
        await world.client("node", "node-local-a").tell(create(), bearer="user.ann")
    assert refused.value.code == "PERMISSION_DENIED"
    assert not world.doors.told


async def test_the_gateway_has_no_rights_of_its_own(world: World) -> None:
    gateway = world.client(name="gateway")
    with pytest.raises(Failure) as refused:
        await gateway.tell(create())
    assert refused.value.code == "UNAUTHENTICATED"
    await gateway.ask(probe.contract().GreetProbeRequest(name="x"))


async def test_internal_rpcs_refuse_users(world: World) -> None:
    sweep = probe.contract().SweepProbesRequest(project_id="acme.vision")
    await world.client().tell(sweep)
    with pytest.raises(Failure) as refused:
        await world.client().tell(sweep, bearer="user.ann")
    assert refused.value.code == "PERMISSION_DENIED"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 1_000_000}, "name"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "../../etc"}, "name"),
        ({"note": "bell \x07"}, "note"),
        ({"note": "x" * 1_000_000}, "note"),
        ({"labels": {"k\x1b": "v"}}, "labels['k\\x1b']"),
        ({"labels": {"k": "\x1b[31m"}}, "labels['k']"),
        ({"limits": {"memory_bytes": -1}}, "limits.memory_bytes"),
        ({"limits": {"memory_bytes": 2**62}}, "limits.memory_bytes"),
        ({"limits": {"share": float("nan")}}, "limits.share"),
        ({"limits": {"inner": {"share": float("inf")}}}, "limits.inner.share"),
        ({"mood": 77}, "mood"),
        ({"numbers": [1] * 5}, "numbers"),
    ],
)
async def test_bad_fields_are_refused_by_name(
    world: World, fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(Failure) as refused:
        await world.client().tell(create(**fields))
    assert refused.value.code == "INVALID_ARGUMENT"
    assert named in [one.field for one in refused.value.violations]
    assert all(one.rule for one in refused.value.violations)
    assert not world.doors.told


async def test_a_secret_is_not_shown_when_it_breaks_a_rule(world: World) -> None:
    with pytest.raises(Failure) as refused:
        await world.client().tell(create(password="hunter2-hunter2"))
    assert refused.value.field == "password"
    assert "hunter2" not in str(refused.value.violations) + refused.value.message


async def raw(world: World, data: bytes, *metadata: tuple[str, str]) -> grpc.aio.AioRpcError:
    line = world.client().line("probe", world.served.address)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await line.unary("/loom.probe.v1.Probes/CreateProbe")(data, metadata=metadata, timeout=5)
    return refused.value


async def test_bytes_that_are_no_message_and_unknown_fields_are_refused(world: World) -> None:
    assert (await raw(world, b"\xff\xff")).code() is grpc.StatusCode.INVALID_ARGUMENT
    deep = create(limits={"inner": {}}).SerializeToString()
    unknown = deep.replace(b"\x1a\x00", b"\x1a\x03\xf8\x07\x01").replace(
        b"\x1a\x02\x1a", b"\x1a\x05\x1a"
    )
    error = await raw(world, unknown)
    assert "limits.inner.#127" in (error.details() or "")
    oversized = create(data=b"x" * (5 * 1024 * 1024)).SerializeToString()
    assert (await raw(world, oversized)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not world.doors.told


@pytest.mark.parametrize(
    "pair",
    [
        ("command-id", "x" * 65),
        ("command-id", "with space"),
        ("issued-at-us", "soon"),
        ("issued-at-us", "99999999999999999"),
        ("correlation-id", "../.."),
        ("authorization", "Basic abc"),
    ],
)
async def test_bad_metadata_is_refused(world: World, pair: tuple[str, str]) -> None:
    error = await raw(world, create().SerializeToString(), pair)
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED)
    assert not world.doors.told


async def test_metadata_given_twice_is_refused_and_claims_are_ignored(world: World) -> None:
    data = create().SerializeToString()
    error = await raw(world, data, ("authorization", "Bearer a"), ("authorization", "Bearer b"))
    assert "twice" in (error.details() or "")
    line = world.client().line("probe", world.served.address)
    claims = (("principal", "user:root"), ("x-forwarded-client-cert", "root"))
    await line.unary("/loom.probe.v1.Probes/CreateProbe")(data, metadata=claims)
    assert world.doors.told[0][1].caller.principal == "service:scheduler"


async def test_a_refusal_reaches_the_caller_and_a_fault_says_nothing(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.client()
    world.doors.failures = [Rejected(Code.FAILED_PRECONDITION, "job is over", "job_id")]
    with pytest.raises(Failure) as refused:
        await client.tell(create())
    assert (refused.value.code, refused.value.field) == ("FAILED_PRECONDITION", "job_id")
    world.doors.failures = [ZeroDivisionError("at line 7 of secret.py")]
    with pytest.raises(Failure) as fault:
        await client.tell(create(), correlation_id="find-me")
    assert fault.value.code == "INTERNAL"
    assert "secret.py" not in fault.value.message
    assert "find-me" in fault.value.message


async def test_a_retry_carries_the_same_command_id(world: World) -> None:
    world.doors.failures = [Failure("UNAVAILABLE", "outcome unknown")] * 2
    await world.client().tell(create())
    ids = {call.command_id for _, call in world.doors.told}
    assert len(world.doors.told) == 3
    assert len(ids) == 1


async def test_a_wrong_owner_sends_the_caller_to_the_right_one(world: World) -> None:
    other = probe.Doors()
    right = await world.serve(other)
    world.doors.failures = [
        Failure(
            "FAILED_PRECONDITION",
            "not the owner",
            reason=WRONG_OWNER,
            details={"address": right.address},
        )
    ]
    client = world.client()
    await client.tell(create())
    await client.tell(create())
    assert (len(world.doors.told), len(other.told)) == (1, 2)
    await right.stop(0)


async def test_a_dead_address_is_left_alone_and_found_again(world: World) -> None:
    client = world.client()
    await client.tell(create())
    await world.served.stop(0)
    with pytest.raises(Failure) as refused:
        await client.tell(create(), timeout_s=0.5)
    assert refused.value.code == "UNAVAILABLE"
    world.addresses.clear()
    world.served = await world.serve(world.doors)
    await client.tell(create())


async def test_no_one_enters_without_a_certificate_of_ours(world: World, tmp_path: Path) -> None:
    address = world.served.address
    ca = world.settings.ca_certificate.read_bytes()
    stranger = settings(tmp_path / "elsewhere", "service", "scheduler")
    theirs = tls.identity(stranger)
    for credentials in (
        grpc.ssl_channel_credentials(ca),
        grpc.ssl_channel_credentials(ca, theirs.key, theirs.certificate),
    ):
        async with grpc.aio.secure_channel(
            address, credentials, (("grpc.ssl_target_name_override", "probe.service.loomos"),)
        ) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=2)


async def test_a_leaf_of_another_service_cannot_answer(world: World) -> None:
    world.settings = settings(world.home, "service", "scheduler")
    impostor = await world.serve(world.doors)
    world.addresses[:] = [impostor.address]
    with pytest.raises(Failure) as refused:
        await world.client().tell(create(), timeout_s=0.5)
    assert refused.value.code == "UNAVAILABLE"
    await impostor.stop(0)


async def test_renewed_certificates_are_used_without_restart(world: World) -> None:
    client = world.client()
    await client.tell(create())
    old = client.lines[("probe", world.served.address)]
    Authority.open(world.home / "ca").issue(client.settings.credentials, "service", "scheduler")
    Authority.open(world.home / "ca").issue(world.settings.credentials, "service", "probe")
    client.stamped_at = 0.0
    await client.tell(create())
    assert client.lines[("probe", world.served.address)] is not old
    assert len(world.doors.told) == 2


async def test_streams_go_both_ways_and_name_what_is_wrong(world: World) -> None:
    client = world.client()
    lines = [
        line.text
        async for line in client.stream(probe.contract().FollowProbeRequest(probe_id="probe-1"))
    ]
    assert lines == ["one\n", "two\n"]

    async def talk(*words: str) -> AsyncIterator[Any]:
        for word in words:
            yield probe.contract().TalkToProbeRequest(text=word)

    heard = []
    with pytest.raises(Failure) as refused:
        async for line in client.stream(
            talk("hello", ""), method="/loom.probe.v1.Probes/TalkToProbe"
        ):
            heard.append(line.text)
    assert heard == ["HELLO"]
    assert (refused.value.code, refused.value.field) == ("INVALID_ARGUMENT", "text")


async def test_health_is_told_and_reflection_knows_its_caller(world: World) -> None:
    line = world.client().line("probe", world.served.address)
    check = health_pb2_grpc.HealthStub(line.channel).Check
    serving = health_pb2.HealthCheckResponse.SERVING
    assert (await check(health_pb2.HealthCheckRequest())).status == serving
    await world.served.ready(False)
    assert (await check(health_pb2.HealthCheckRequest())).status != serving

    reflect = reflection_pb2_grpc.ServerReflectionStub(line.channel).ServerReflectionInfo
    asking = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in reflect(iter([asking])):
        names = [one.name for one in answer.list_services_response.service]
        assert "loom.probe.v1.Probes" in names
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in reflect(iter([asking]), metadata=(("authorization", "Bearer forged"),)):
            pass
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_calls_in_parallel_keep_their_own_identity(world: World) -> None:
    gateway = world.client(name="gateway")
    get = probe.contract().GetProbeRequest(probe_id="probe-1")
    answers: list[Any] = await asyncio.gather(
        *(gateway.ask(get, bearer=f"user.u{n}") for n in range(32))
    )
    assert [one.principal for one in answers] == [f"user:u{n}" for n in range(32)]
