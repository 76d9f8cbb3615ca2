"""Calls services: finds the owner of a shard, and calls it until it answers or time is up.

1. A retry carries the same command id, so a command that is asked for twice happens once.
2. Which service answers is proven by its certificate's name, never by its address.
3. A dead address is left alone for a growing while (circuit breaker); a renewed leaf gets a
   channel of its own, and calls under way end on the old one.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from loom.decider import Position
from loom.kit import observe, tls
from loom.kit.call import Headers, metadata_of, new_command_id
from loom.kit.config import Settings
from loom.kit.errors import TRAVELLING, WRONG_OWNER, Failure, from_rpc, made_by_peer
from loom.kit.routes import Route, route_of, route_to, shard_in
from loom.kit.validate import REQUEST_BYTES_MAX
from loom.log.clock import now_us

__all__ = ["Client"]

Resolve = Callable[[str, str], Awaitable[str]]

REPORTED_BYTES_MAX = 64 * 1024
NOT_HEARD = ("UNAUTHENTICATED", "RESOURCE_EXHAUSTED")
PAUSE_SECONDS_MIN = 0.05
PAUSE_SECONDS_MAX = 1.0
FAILURES_MAX = 5
REST_SECONDS_MIN = 0.5
REST_SECONDS_MAX = 8.0
REDIRECTS_MAX = 3
OWNERS_MAX = 10_000
STAMP_SECONDS = 1.0
OLD_CHANNEL_SECONDS = 60.0
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", REQUEST_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.enable_retries", 0),
    ("grpc.lb_policy_name", "pick_first"),
)


@dataclass(slots=True)
class Breaker:
    """Leaves an address alone after failures in a row, for longer each time."""

    failures: int = 0
    open_until: float = 0.0

    def rest(self, now: float) -> float:
        """Seconds to wait before the next try."""
        return max(0.0, self.open_until - now)

    def failed(self, now: float) -> None:
        """Count a failure; from the fifth in a row on, the address rests."""
        self.failures += 1
        over = self.failures - FAILURES_MAX
        if over >= 0:
            seconds = min(REST_SECONDS_MAX, REST_SECONDS_MIN * 2 ** min(over, 8))
            self.open_until = now + seconds * random.uniform(0.5, 1.0)  # noqa: S311 - jitter

    def answered(self) -> None:
        """Any answer at all shows that the address lives."""
        self.failures, self.open_until = 0, 0.0


@dataclass(slots=True)
class Line:
    """A channel to one service at one address, under one leaf."""

    channel: grpc.aio.Channel
    stamp: tuple[int, ...]
    calls: dict[str, Any] = field(default_factory=dict)

    def unary(self, path: str) -> Any:
        """The callable of a unary RPC; bytes out, bytes in."""
        call = self.calls.get(path)
        if call is None:
            call = self.calls[path] = self.channel.unary_unary(path)
        return call


class Client:
    """mTLS channels to all services; one a process."""

    def __init__(self, settings: Settings, resolve: Resolve) -> None:
        self.settings = settings
        self.resolve = resolve
        self.log = observe.logger("client")
        self.lines: dict[tuple[str, str], Line] = {}
        self.breakers: dict[str, Breaker] = {}
        self.owners: dict[tuple[str, str], str] = {}
        self.retired: set[asyncio.Task[None]] = set()
        self.stamp = tls.stamp(settings)
        self.stamped_at = time.monotonic()

    async def close(self) -> None:
        """Drop all channels."""
        for task in self.retired:
            task.cancel()
        lines, self.lines = list(self.lines.values()), {}
        for line in lines:
            await line.channel.close()

    async def tell(
        self,
        request: Message,
        *,
        command_id: str = "",
        correlation_id: str = "",
        causation_id: str = "",
        bearer: str = "",
        timeout_s: float = 10.0,
        issued_at_us: int = 0,
        after: tuple[Position, ...] = (),
    ) -> Message:
        """Have a command decided; raises Failure with the refusal, or when time is up.

        One that may have been told before says when it was issued first. What a command answers of
        read models has seen the positions in `after`.
        """
        given = Headers(
            command_id=command_id or new_command_id(),
            issued_at_us=issued_at_us or now_us(),
            correlation_id=correlation_id,
            causation_id=causation_id,
            traceparent=observe.traceparent(),
            bearer=bearer,
            after=after,
        )
        return await self.call(request, given, timeout_s)

    async def ask(
        self,
        request: Message,
        *,
        after: tuple[Position, ...] = (),
        as_of: str = "",
        correlation_id: str = "",
        bearer: str = "",
        timeout_s: float = 10.0,
    ) -> Message:
        """The answer to a query that has seen the positions in `after`; raises Failure.

        With `as_of` it is the answer of that moment.
        """
        given = Headers(
            correlation_id=correlation_id,
            traceparent=observe.traceparent(),
            bearer=bearer,
            after=after,
            as_of=as_of,
        )
        return await self.call(request, given, timeout_s)

    async def call(
        self, request: Message, given: Headers, timeout_s: float, service: str = ""
    ) -> Message:
        """One unary call, tried until it is answered or its time is up.

        `service` says who is asked where several services serve the contract.
        """
        route = route_of(request.DESCRIPTOR)
        key = (service or route.service, shard_in(request, route))
        data, metadata = request.SerializeToString(), metadata_of(given)
        deadline = time.monotonic() + timeout_s
        pause, redirects = PAUSE_SECONDS_MIN, 0
        while True:
            try:
                return await self.attempt(route, key, data, metadata, deadline)
            except Failure as failure:
                if failure.reason == WRONG_OWNER and redirects < REDIRECTS_MAX:
                    redirects += 1
                    self.learn(key, failure.details.get("address", ""))
                    if key in self.owners:
                        continue
                elif failure.reason == TRAVELLING:
                    # It goes on without us; whoever asked wants to hear how far it is.
                    raise
                elif failure.code != "UNAVAILABLE" and failure.reason != WRONG_OWNER:
                    if failure.code == "DEADLINE_EXCEEDED":
                        # A stopped owner never says that another took over.
                        self.owners.pop(key, None)
                    raise
                self.owners.pop(key, None)
                pause = min(PAUSE_SECONDS_MAX, pause * 2)
                wait = pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
                if time.monotonic() + wait >= deadline:
                    if failure.reason == WRONG_OWNER:
                        # Nobody decided, so this is no verdict to hand on.
                        raise Failure("UNAVAILABLE", f"{failure.message}: retry") from failure
                    raise
                await asyncio.sleep(wait)

    async def report(
        self, route: Route, body: bytes, told: Failure, given: Headers, timeout_s: float
    ) -> Failure:
        """Have an owner record a command that was no message of the contract.

        Gives the failure to tell: `told`, unless the owner will not hear the caller.
        """
        # No message begins with this byte, so whatever the body holds is refused, by its digest.
        data = b"\xff" + body[:REPORTED_BYTES_MAX]
        deadline = time.monotonic() + timeout_s
        try:
            await self.attempt(route, (route.service, ""), data, metadata_of(given), deadline)
        except Failure as failure:
            return failure if failure.code in NOT_HEARD else told
        raise AssertionError("bytes that are no message were taken for one")

    async def attempt(
        self,
        route: Route,
        key: tuple[str, str],
        data: bytes,
        metadata: tuple[tuple[str, str | bytes], ...],
        deadline: float,
    ) -> Message:
        """One try at the owner as it is known now."""
        address = await self.address(key)
        breaker = self.breakers.setdefault(address, Breaker())
        now = time.monotonic()
        rest = breaker.rest(now)
        if rest > 0:
            if now + rest >= deadline:
                raise Failure("UNAVAILABLE", f"{key[0]} at {address} does not answer")
            await asyncio.sleep(rest)
        line = self.line(key[0], address)
        left = max(0.001, deadline - time.monotonic())
        try:
            answer = await line.unary(route.path)(data, metadata=metadata, timeout=left)
        except grpc.aio.AioRpcError as error:
            failure = from_rpc(error)
            if failure.code != "UNAVAILABLE" or made_by_peer(error):
                breaker.answered()
            else:
                breaker.failed(time.monotonic())
            raise failure from error
        breaker.answered()
        return route.response.FromString(answer)

    async def stream(
        self,
        request_or_iterator: Message | AsyncIterator[Message],
        *,
        method: str = "",
        shard: str = "",
        correlation_id: str = "",
        bearer: str = "",
    ) -> AsyncIterator[Message]:
        """The answers of a streaming RPC; `method` is its path, needed with an iterator only."""
        if isinstance(request_or_iterator, Message):
            route = route_of(request_or_iterator.DESCRIPTOR)
            shard = shard or shard_in(request_or_iterator, route)
        else:
            route = route_to(method)
        metadata = metadata_of(
            Headers(correlation_id=correlation_id, traceparent=observe.traceparent(), bearer=bearer)
        )
        key = (route.service, shard)
        for redirects in range(REDIRECTS_MAX + 1):
            line = self.line(route.service, await self.address(key))
            call = opened(line.channel, route, request_or_iterator, metadata)
            try:
                async for answer in call:
                    yield route.response.FromString(answer)
                return
            except grpc.aio.AioRpcError as error:
                failure = from_rpc(error)
                self.owners.pop(key, None)
                self.learn(key, failure.details.get("address", ""))
                # A wrong owner refuses before it reads; an iterator begun cannot begin again.
                again = failure.reason == WRONG_OWNER and isinstance(request_or_iterator, Message)
                if not again or redirects == REDIRECTS_MAX:
                    raise failure from error
            finally:
                call.cancel()

    def learn(self, key: tuple[str, str], address: str) -> None:
        """Remember what a wrong owner said of the right one."""
        if address and address != self.owners.get(key):
            self.owners[key] = address
        else:
            self.owners.pop(key, None)

    async def address(self, key: tuple[str, str]) -> str:
        """Where the owner of a shard listens; raises Failure UNAVAILABLE while nobody does."""
        try:
            address = self.owners.get(key) or await self.resolve(*key)
        except Failure:
            raise
        except Exception as error:
            # The table of owners is away; it comes back, as an owner does.
            self.log.warning("owner not found", service=key[0], shard=key[1], error=error)
            raise Failure("UNAVAILABLE", f"the owner of {key[0]} cannot be found now") from error
        if not address:
            raise Failure("UNAVAILABLE", f"nobody serves {key[0]} for {key[1] or 'all'} now")
        if len(self.owners) < OWNERS_MAX:
            self.owners[key] = address
        return address

    def line(self, service: str, address: str) -> Line:
        """The channel to a service at an address, under the leaf as it is now."""
        if time.monotonic() - self.stamped_at > STAMP_SECONDS:
            self.stamp, self.stamped_at = tls.stamp(self.settings), time.monotonic()
        line = self.lines.get((service, address))
        if line is not None and line.stamp == self.stamp:
            return line
        try:
            credentials = tls.channel_credentials(self.settings)
        except Exception as error:
            if line is not None:
                return line
            raise Failure("UNAVAILABLE", f"no certificate to call {service} with") from error
        options = (
            *CHANNEL_OPTIONS,
            ("grpc.ssl_target_name_override", f"{service}.service.loomos"),
        )
        channel = grpc.aio.secure_channel(address, credentials, options)
        fresh = Line(channel, self.stamp)
        self.lines[(service, address)] = fresh
        if line is not None:
            task = asyncio.get_running_loop().create_task(retire(line.channel))
            self.retired.add(task)
            task.add_done_callback(self.retired.discard)
        return fresh


def opened(
    channel: grpc.aio.Channel,
    route: Route,
    given: Message | AsyncIterator[Message],
    metadata: tuple[tuple[str, str | bytes], ...],
) -> Any:
    """A streaming call that has begun."""
    if isinstance(given, Message):
        return channel.unary_stream(route.path)(given.SerializeToString(), metadata=metadata)
    return channel.stream_stream(route.path)(serialized(given), metadata=metadata)


async def serialized(messages: AsyncIterator[Message]) -> AsyncIterator[bytes]:
    """The messages as bytes."""
    async for message in messages:
        yield message.SerializeToString()


async def retire(channel: grpc.aio.Channel) -> None:
    """Close a channel once the calls on it have had time to end."""
    await channel.close(grace=OLD_CHANNEL_SECONDS)
