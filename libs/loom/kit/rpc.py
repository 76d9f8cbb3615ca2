"""Serves a contract over gRPC from its descriptor: the one door of a service's process.

1. Nobody comes in without a certificate of our authority; identity is its SPIFFE URI, or the
   signed token that a *service* presents for a user. Metadata never names anyone.
2. What enters `doors` has passed size, wire form, unknown fields and the contract's rules.
3. Every call has a deadline; every failure leaves as a status with details, never with a trace.
4. The gateway carries others' calls: without a token it may use the anonymous RPCs only.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from prometheus_client import Histogram

from loom.kit import observe, tls
from loom.kit.call import Call, Headers, headers, new_command_id
from loom.kit.client import Client
from loom.kit.config import InvalidSetting, Settings
from loom.kit.errors import Failure, failure_of, trailers_of
from loom.kit.routes import Route, routes_of
from loom.kit.validate import REQUEST_BYTES_MAX, parse
from loom.log.clock import now_us

if TYPE_CHECKING:
    from loom.kit.authorize import Caller

__all__ = [
    "Call",
    "Client",
    "Doors",
    "Reflection",
    "Served",
    "completed",
    "opened",
    "serve",
    "serve_health",
]

Meet = Callable[[grpc.aio.ServicerContext], Awaitable[None]]
Authenticate = Callable[[str | None, str | None], Awaitable["Caller"]]

GATEWAY = "spiffe://loomos/service/gateway"
SERVICES = "spiffe://loomos/service/"
CALL_SECONDS_MAX = 60.0
health_aio: Any = vars(health)["aio"]
reflection_aio: Any = vars(reflection)["aio"]
CALLS_AT_ONCE_MAX = 4096
SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
SECONDS = Histogram(
    "loomos_rpc_seconds",
    "Time from a call's arrival to its answer.",
    ("service", "method", "code"),
    buckets=(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
)


class Doors(Protocol):
    """What stands behind the door: the shell of a deciding service, or an edge's own."""

    async def tell(self, request: Message, call: Call) -> Message:
        """Decide a command; answers when its record has been read back."""
        ...

    async def refuse(self, route: Route, data: bytes, failure: Failure, call: Call) -> None:
        """Leave a record of a command that the door refused; may raise another Failure instead."""
        ...

    async def ask(self, method: str, request: Message, call: Call) -> Message:
        """Answer a query."""
        ...

    def stream(
        self, method: str, requests: AsyncIterator[Message], call: Call
    ) -> AsyncIterator[Message]:
        """Answer a streaming RPC."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """A contract that is being served."""

    server: grpc.aio.Server
    address: str
    """`host:port` as bound; what the lease tells callers."""
    health: Any
    services: tuple[str, ...]

    async def ready(self, serving: bool = True) -> None:
        """Say through the health service whether calls are welcome."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        for name in ("", *self.services):
            await self.health.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def stop(self, grace_seconds: float = 2.0) -> None:
        """Take no more calls, and give those under way a moment to end."""
        await self.ready(False)
        await self.server.stop(grace_seconds)


async def serve(
    contract: ModuleType,
    doors: Doors,
    settings: Settings,
    authenticate: Authenticate,
    *beside: ModuleType,
) -> Served:
    """Open the door at `settings.listen`; raises InvalidSetting where it cannot be opened."""
    server = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=CALLS_AT_ONCE_MAX)
    door = Door(doors, authenticate)
    by_service: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
    for route in chain.from_iterable(map(routes_of, (contract, *beside))):
        name = route.path.split("/")[1]
        by_service.setdefault(name, {})[route.method] = door.handler(route)
    for name, handlers in by_service.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    names = (*by_service, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(Reflection(door.met, names), server)
    return await opened(server, settings, tuple(by_service))


async def serve_health(settings: Settings) -> Served:
    """Open a door at `settings.listen` that tells health only: for edges that have no contract."""
    return await opened(grpc.aio.server(options=SERVER_OPTIONS), settings, ())


async def opened(
    server: grpc.aio.Server,
    settings: Settings,
    services: tuple[str, ...],
    *,
    client_certificates: bool = True,
) -> Served:
    """Start a server with a health service; raises InvalidSetting where its port is taken."""
    # The stubs do not know the asyncio half of the package.
    healthy = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    host = settings.listen.rpartition(":")[0]
    try:
        credentials = tls.server_credentials(settings, client_certificates=client_certificates)
        port = server.add_secure_port(settings.listen, credentials)
    except RuntimeError as error:
        raise InvalidSetting(f"LOOMOS_LISTEN is {settings.listen!r}: it is taken") from error
    await server.start()
    served = Served(server, f"{host}:{port}", healthy, services)
    await served.ready()
    return served


class Door:
    """Turns gRPC calls into calls of `doors`."""

    def __init__(self, doors: Doors, authenticate: Authenticate) -> None:
        self.doors = doors
        self.authenticate = authenticate
        self.log = observe.logger("rpc")

    def handler(self, route: Route) -> grpc.RpcMethodHandler:
        """The gRPC handler of one RPC; bytes in and out, so that we judge what does not parse."""
        if route.unary:

            async def unary(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
                return await self.guarded(route, context, lambda call: self.one(route, data, call))

            return grpc.unary_unary_rpc_method_handler(unary)

        async def many(
            given: bytes | AsyncIterator[bytes], context: grpc.aio.ServicerContext
        ) -> None:
            requests = parsed(route, given)
            await self.guarded(
                route, context, lambda call: self.pour(route, requests, call, context)
            )

        if route.streams_in:
            return grpc.stream_stream_rpc_method_handler(many)
        return grpc.unary_stream_rpc_method_handler(many)

    async def one(self, route: Route, data: bytes, call: Call) -> bytes:
        """Answer one request."""
        try:
            request = parse(route.request, data)
        except Failure as failure:
            if not route.query:
                await self.doors.refuse(route, data, failure, call)
            raise
        left = CALL_SECONDS_MAX if call.deadline_s is None else call.deadline_s
        async with asyncio.timeout(min(left, CALL_SECONDS_MAX)):
            if route.query:
                answer = await self.doors.ask(route.method, request, call)
            else:
                answer = await self.doors.tell(request, call)
        return answer.SerializeToString()

    async def pour(
        self,
        route: Route,
        requests: AsyncIterator[Message],
        call: Call,
        context: grpc.aio.ServicerContext,
    ) -> bytes:
        """Send the answers of a streaming RPC as they come."""
        # Headers first: a caller that follows something quiet knows that it was let in.
        await context.send_initial_metadata(())
        answers = self.doors.stream(route.method, requests, call)
        try:
            async for answer in answers:
                await context.write(answer.SerializeToString())
        finally:
            closing = getattr(answers, "aclose", None)
            if closing is not None:
                await closing()
        return b""

    async def guarded(
        self,
        route: Route,
        context: grpc.aio.ServicerContext,
        work: Callable[[Call], Awaitable[bytes]],
    ) -> bytes:
        """Let a known caller in, and turn whatever goes wrong into a status."""
        began = time.perf_counter()
        given, code = Headers(), "OK"
        try:
            given = completed(route, headers(context.invocation_metadata() or ()))
            caller = await self.caller_of(route, context, given)
            with (
                observe.correlated(given.correlation_id),
                observe.span(route.path, given.traceparent, principal=caller.principal),
            ):
                return await work(call_of(caller, given, context))
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except Exception as error:
            failure = failure_of(error, given.correlation_id)
            code = failure.code
            if failure.reason == "INTERNAL":
                self.log.error(
                    "call failed",
                    method=route.path,
                    correlation_id=given.correlation_id,
                    exc_info=error,
                )
            await context.abort(
                grpc.StatusCode[failure.code], failure.message, trailers_of(failure)
            )
            raise AssertionError("abort raises") from error
        finally:
            SECONDS.labels(route.service, route.method, code).observe(time.perf_counter() - began)

    async def caller_of(
        self, route: Route, context: grpc.aio.ServicerContext, given: Headers
    ) -> "Caller":
        """Who calls; raises Failure UNAUTHENTICATED or PERMISSION_DENIED."""
        spiffe = spiffe_of(context)
        if given.bearer and not spiffe.startswith(SERVICES):
            raise Failure("PERMISSION_DENIED", f"{spiffe} may not act for a token's user")
        if spiffe == GATEWAY and not given.bearer and not route.anonymous:
            raise Failure("UNAUTHENTICATED", f"{route.method} needs a bearer token")
        if route.internal and given.bearer:
            raise Failure("PERMISSION_DENIED", f"{route.method} is for services and nodes only")
        return await self.authenticate(spiffe, given.bearer or None)

    async def met(self, context: grpc.aio.ServicerContext) -> None:
        """Raise Failure for a caller whom nobody knows."""
        given = headers(context.invocation_metadata() or ())
        await self.authenticate(spiffe_of(context), given.bearer or None)


def spiffe_of(context: grpc.aio.ServicerContext) -> str:
    """The one SPIFFE URI of the peer's certificate."""
    found = list(context.auth_context().get("peer_spiffe_id", ()))
    if len(found) != 1:
        raise Failure("UNAUTHENTICATED", "the certificate names no one: want one SPIFFE URI")
    return found[0].decode()


def completed(route: Route, given: Headers) -> Headers:
    """The headers with the ids that the caller did not give; raises Failure."""
    if given.as_of and not (route.query and route.unary):
        told = f"{route.method} is no query of a read model: leave the metadata as-of out"
        raise Failure("INVALID_ARGUMENT", told, "as_of")
    command_id = given.command_id or ("" if route.query else new_command_id())
    return replace(
        given,
        command_id=command_id,
        issued_at_us=given.issued_at_us or now_us(),
        correlation_id=given.correlation_id or command_id or new_command_id(),
    )


def call_of(caller: "Caller", given: Headers, context: grpc.aio.ServicerContext) -> Call:
    """The call as `doors` sees it; runs inside the call's span."""
    return Call(
        caller=caller,
        command_id=given.command_id,
        issued_at_us=given.issued_at_us,
        correlation_id=given.correlation_id,
        causation_id=given.causation_id,
        traceparent=observe.traceparent(),
        after=given.after,
        deadline_s=context.time_remaining(),
        as_of=given.as_of,
    )


async def parsed(route: Route, given: bytes | AsyncIterator[bytes]) -> AsyncIterator[Message]:
    """The requests of a call, each one checked."""
    if isinstance(given, bytes):
        yield parse(route.request, given)
        return
    async for data in given:
        yield parse(route.request, data)


class Reflection(reflection_aio.ReflectionServicer):
    """Server reflection for callers whom `meet` lets in; it raises for all others."""

    def __init__(self, meet: Meet, names: tuple[str, ...]) -> None:
        super().__init__(names)
        self.meet = meet

    async def ServerReflectionInfo(
        self, request_iterator: Any, unused_context: Any
    ) -> AsyncIterator[Any]:
        """Answer questions about the contracts."""
        try:
            await self.meet(unused_context)
        except Exception as error:  # noqa: BLE001 - as in `guarded`
            failure = failure_of(error)
            await unused_context.abort(grpc.StatusCode[failure.code], failure.message)
        async for answer in super().ServerReflectionInfo(request_iterator, unused_context):
            yield answer
