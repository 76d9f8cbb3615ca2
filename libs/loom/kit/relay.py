"""The gateway's gRPC door, for anybody's client: it carries a call, with its token, to the owner.

1. TLS without a client certificate: a bearer token or an API key in the metadata says who calls.
2. What is carried has passed size, wire form, unknown fields and the contract's rules; a command of
   somebody known that has not is recorded by an owner.
3. It decides nothing and believes no one: the service behind checks the token. What only services
   may say of a call, its cause and when it was issued, is not carried.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

import grpc
from google.protobuf.message import Message
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from loom.kit import observe
from loom.kit.call import Headers, headers
from loom.kit.client import Client
from loom.kit.config import Settings
from loom.kit.errors import Failure, failure_of, trailers_of
from loom.kit.routes import Route
from loom.kit.rpc import SERVER_OPTIONS, Reflection, Served, completed, opened
from loom.kit.validate import parse
from loom.log.clock import now_us
from loom.v1 import security_pb2

__all__ = ["Identify", "relay"]

CALL_SECONDS_MAX = 60.0
CALLS_AT_ONCE_MAX = 1000
NAMELESS = "send the metadata authorization: Bearer … or x-api-key"

Identify = Callable[[list[str], list[str], str], Awaitable[str]]
"""The token of a call with these `authorization` and `x-api-key` from an address, or ""."""


async def relay(
    routes: Iterable[Route],
    client: Client,
    settings: Settings,
    identify: Identify,
    stranger: Callable[[str], None],
) -> Served:
    """Open the door at `settings.listen`; `stranger` refuses who comes without a token too often.

    Raises InvalidSetting where the door cannot be opened.
    """
    server = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=CALLS_AT_ONCE_MAX)
    door = Door(client, identify, stranger)
    by_service: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
    for route in routes:
        name = route.path.split("/")[1]
        by_service.setdefault(name, {})[route.method] = door.handler(route)
    for name, handlers in by_service.items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    names = (*by_service, reflection.SERVICE_NAME)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(Reflection(door.met, names), server)
    return await opened(server, settings, tuple(by_service), client_certificates=False)


class Door:
    """Turns gRPC calls of clients outside into calls of ours."""

    def __init__(self, client: Client, identify: Identify, stranger: Callable[[str], None]) -> None:
        self.client = client
        self.identify = identify
        self.stranger = stranger
        self.log = observe.logger("relay")

    def handler(self, route: Route) -> grpc.RpcMethodHandler:
        """The gRPC handler of one RPC; bytes in and out, so that we judge what does not parse."""

        async def unary(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            return await self.guarded(route, context, lambda given: self.one(route, data, given))

        async def many(data: bytes, context: grpc.aio.ServicerContext) -> None:
            await self.guarded(route, context, lambda given: self.pour(route, data, given, context))

        if route.unary:
            return grpc.unary_unary_rpc_method_handler(unary)
        return grpc.unary_stream_rpc_method_handler(many)

    async def guarded(
        self,
        route: Route,
        context: grpc.aio.ServicerContext,
        work: Callable[[Headers], Awaitable[bytes]],
    ) -> bytes:
        """Let a caller in, and turn whatever goes wrong into a status."""
        given = Headers()
        try:
            given = await self.known(route, context)
            left = None if route.streams_out else CALL_SECONDS_MAX
            with (
                observe.correlated(given.correlation_id),
                observe.span(route.path, given.traceparent),
            ):
                async with asyncio.timeout(left):
                    return await work(given)
        except Exception as error:
            failure = failure_of(error, given.correlation_id)
            if failure.reason == "INTERNAL" and failure is not error:
                self.log.error("call failed", method=route.path, exc_info=error)
            await context.abort(
                grpc.StatusCode[failure.code], failure.message, trailers_of(failure)
            )
            raise AssertionError("abort raises") from error

    async def known(self, route: Route, context: grpc.aio.ServicerContext) -> Headers:
        """The call's metadata with its token; raises Failure where a token is missing."""
        metadata = list(context.invocation_metadata() or ())
        given = completed(route, headers(metadata))
        bearer = await self.bearer(context)
        if not bearer:
            if not route.anonymous:
                raise Failure("UNAUTHENTICATED", NAMELESS)
            self.stranger(address_of(context))
        if route.anonymous and not route.query:
            # Who logs in or joins is not yet anyone: an old token must not speak for him.
            bearer = ""
        return replace(given, bearer=bearer, causation_id="", issued_at_us=now_us())

    async def bearer(self, context: grpc.aio.ServicerContext) -> str:
        """The token that a call's metadata stand for, "" where there is none."""
        pairs = [(key, value) for key, value in context.invocation_metadata() or ()]
        shown, keys = (
            [str(value) for key, value in pairs if key == name]
            for name in ("authorization", "x-api-key")
        )
        return await self.identify(shown, keys, address_of(context))

    async def met(self, context: grpc.aio.ServicerContext) -> None:
        """Raise Failure for a caller whose token no service has checked."""
        bearer = await self.bearer(context)
        if not bearer:
            raise Failure("UNAUTHENTICATED", NAMELESS)
        await self.client.ask(security_pb2.WhoAmIRequest(), bearer=bearer)

    async def one(self, route: Route, data: bytes, given: Headers) -> bytes:
        """Carry one request and its answer."""
        answer = await self.client.call(
            await self.parsed(route, data, given), given, CALL_SECONDS_MAX
        )
        return answer.SerializeToString()

    async def pour(
        self, route: Route, data: bytes, given: Headers, context: grpc.aio.ServicerContext
    ) -> bytes:
        """Carry the answers of a streaming RPC as they come."""
        request = await self.parsed(route, data, given)
        answers = self.client.stream(
            request, bearer=given.bearer, correlation_id=given.correlation_id
        )
        # Headers first: a caller that follows something quiet knows that it was let in.
        await context.send_initial_metadata(())
        try:
            async for answer in answers:
                await context.write(answer.SerializeToString())
        finally:
            closing = getattr(answers, "aclose", None)
            if closing is not None:
                await closing()
        return b""

    async def parsed(self, route: Route, data: bytes, given: Headers) -> Message:
        """The request; a command of somebody known that is none is recorded by an owner."""
        try:
            return parse(route.request, data)
        except Failure as failure:
            if route.query or route.streams_out or not given.bearer:
                raise
            raise await self.client.report(
                route, data, failure, given, CALL_SECONDS_MAX
            ) from failure


def address_of(context: grpc.aio.ServicerContext) -> str:
    """The caller's address without its port."""
    return context.peer().partition(":")[2].rpartition(":")[0]
