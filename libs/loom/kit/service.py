"""Runs a deciding service: its door, and what stands behind it for clients and for its own verbs.

1. Secrets of a request are turned into facts by `door.prepare`, and fields marked `debug_redact`
   are cleared before anything is decided, digested or stored.
2. A loop that must not go on (the log diverged, a record undecodable) ends the process loudly: the
   supervisor restarts it, an operator reads one line that says what and where.
"""

import asyncio
import contextlib
import hashlib
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import structlog
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from loom.decider import Position, Recorded, Rejected, Resource, partition_shard
from loom.kit import erasures, observe
from loom.kit.answers import Answer
from loom.kit.authorize import Authorizer, Caller
from loom.kit.commander import Commander
from loom.kit.config import Settings
from loom.kit.contract import Hears, Service
from loom.kit.descriptors import described
from loom.kit.elder import answered_long_ago, is_elder
from loom.kit.entries import Entry, stale_view, unknown_outcome
from loom.kit.errors import WRONG_OWNER, Failure
from loom.kit.loops import kept
from loom.kit.owners import client_over
from loom.kit.ownership import Ownership
from loom.kit.reactor import derived_id
from loom.kit.routes import Route, route_of, routes_of, shard_in
from loom.kit.rpc import Call, new_command_id, serve
from loom.kit.sealing import Sealing
from loom.kit.travel import Travels
from loom.kit.view import PLATFORM
from loom.log.clock import now_us
from loom.log.judge import START, Base
from loom.log.reader import follow
from loom.log.topics import partition_of
from loom.personal import has_any, organisation_of
from loom.store import Connection, Store
from loom.v1 import travel_pb2

__all__ = ["Hears", "Service", "Shell", "run"]

AFTER_S_MAX = 5.0
_SNAKE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Shell:
    """What a service's streams, effects and doors may use of the process."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self.service = service
        self.name = service.name
        self.settings = settings
        self.log = structlog.get_logger().bind(service=service.name)
        self.store = Store(settings.postgres, service.name.replace("-", "_"))
        self.authorizer = Authorizer(settings)
        self.client = client_over(settings, self.store)
        self.address = settings.listen
        self.owner = ""
        self.ownership = Ownership(self)
        self.sealing = Sealing(settings)
        self.travels = Travels(service, settings, self.store, self.client)
        self._routes = {route.method: route for route in routes_of(service.contract)}

    @asynccontextmanager
    async def db(self) -> AsyncIterator[Connection]:
        """A connection to the service's own read models."""
        async with self.store.connection() as connection:
            yield connection

    @asynccontextmanager
    async def past(self, as_of: str, caller: Caller, action: str) -> AsyncIterator[Connection]:
        """A connection to the read models as of a moment; to those of now where it is empty."""
        opened = self.travels.db(as_of, caller, action) if as_of else self.db()
        async with opened as connection:
            yield connection

    def follow(
        self, service: str, partition: int = 0, start: Base = START
    ) -> AsyncIterator[tuple[Recorded, Base]]:
        """Valid events of a service's topic, live, each with the base behind it."""
        return follow(self.settings, f"loomos.{service}", partition, start)

    # The doors' side: kit/rpc.py calls these.

    async def tell(self, request: Message, call: Call | None = None, **given: str) -> Message:
        """Have a command decided by its shard's owner; answers when the log has it.

        Without a call the service speaks for itself: `key` and `causation_id` make the command's
        id repeatable, `correlation_id` names the story.
        """
        if call is None:
            return await self.tell_as_self(request, **given)
        route = route_of(request.DESCRIPTOR)
        organisation = organisation_of(shard_in(request, route) or call.caller.organisation_id)
        digest = await self.sealing.prepare(
            request, organisation, digest_of(request), call.caller, route.method
        )
        if self.service.door is not None and hasattr(self.service.door, "prepare"):
            request = await self.service.door.prepare(request, call.caller, self)
        clear_secrets(request)
        told = route.response.DESCRIPTOR.full_name == "loom.v1.Receipt"
        if not told:
            # A read that leaves a record sees what its caller wrote, as any other query does.
            await self._await_positions(call.after)
        receipt = await self._decide(route, request, digest, call)
        if told:
            return receipt
        assert self.service.door is not None
        answer = await self.service.door.answer(request, receipt, call.caller, self)
        return await self.sealing.open(answer, call.caller)

    async def refuse(self, route: Route, data: bytes, failure: Failure, call: Call) -> None:
        """Record an invalid command of a known caller on a partition of this instance."""
        commanders = [one for one in self.ownership.commanders.values() if one.serving.is_set()]
        if not call.caller.principal or not commanders:
            return
        digest = hashlib.sha256(data).digest()
        if has_any(described(route.request)):
            # It was not read, so nothing says whose it is: neither words nor digest may tell.
            message = f"the command breaks the contract at {failure.field or 'no one field'}"
            failure = Failure(failure.code, message, failure.field)
            digest = self.sealing.digest(call.caller.organisation_id, "", data)
        entry = Entry(
            request=route.request(),
            caller=call.caller,
            shard=partition_shard(commanders[0].partition),
            action=route.method,
            command_id=call.command_id,
            digest=digest,
            issued_at_us=min(call.issued_at_us, now_us()),
            correlation_id=call.correlation_id,
            causation_id=call.causation_id,
            traceparent=call.traceparent,
            expected={},
            answer=asyncio.get_running_loop().create_future(),
            refusal=Rejected(failure.code, failure.message, failure.field),
        )
        await commanders[0].submit(entry)

    async def ask(self, method: str, request: Message, call: Call) -> Message:
        """Answer a query from the read models, after they have reached `call.after`."""
        await self._await_positions(call.after)
        self._allowed(call.caller, method)
        if isinstance(request, travel_pb2.ListChangesRequest):
            return await self.travels.changes(request)
        if call.as_of and method in self.service.timeless:
            told = f"{method} answers of now only: leave as_of out"
            raise Failure("INVALID_ARGUMENT", told, "as_of")
        query = getattr(self.service.query, snake(method))
        async with self.past(call.as_of, call.caller, method) as connection:
            answer = await query(request, call.caller, connection)
        return await self.sealing.open(answer, call.caller)

    async def stream(
        self, method: str, requests: AsyncIterator[Message], call: Call
    ) -> AsyncIterator[Message]:
        """Answer a streaming RPC."""
        self._allowed(call.caller, method)
        generator = getattr(self.service.stream, snake(method))
        given: Any = requests
        if not self._routes[method].streams_in:
            given = await anext(requests)
        async for answer in generator(given, call.caller, self):
            yield answer

    def _allowed(self, caller: Caller, method: str) -> None:
        """Refuse a read by who may do it nowhere; where it may is the query's filter."""
        scope = caller.scope(method)
        if scope.all or scope.organisations or scope.projects:
            return
        if self.authorizer.stale():
            raise stale_view()
        kind = "platform" if caller.organisation_id == PLATFORM else "organisation"
        reasons = caller.may(method, Resource(kind, caller.organisation_id)).reasons
        told = f"{caller.principal} may not {method} anywhere: {', '.join(reasons)}"
        raise Failure("PERMISSION_DENIED", told)

    async def tell_as_self(
        self, request: Message, key: str = "", correlation_id: str = "", causation_id: str = ""
    ) -> Message:
        """A command of the service's own, to itself or another."""
        command_id = derived_id(causation_id, 0, self.name, key) if key else new_command_id()
        return await self._send(request, command_id, correlation_id, causation_id, "")

    async def tell_because(self, request: Message, command_id: str, cause: Recorded) -> Message:
        """A reactor's command."""
        return await self._send(
            request, command_id, cause.correlation_id, cause.id, cause.trace, cause.at_us
        )

    async def _send(
        self,
        request: Message,
        command_id: str,
        correlation_id: str,
        causation_id: str,
        trace: str,
        issued_at_us: int = 0,
    ) -> Message:
        route = route_of(request.DESCRIPTOR)
        if route.service == self.name and self.ownership.commander_of(shard_in(request, route)):
            call = Call(
                caller=self.authorizer.service_caller(self.name),
                command_id=command_id,
                issued_at_us=issued_at_us or now_us(),
                correlation_id=correlation_id or command_id,
                causation_id=causation_id,
                traceparent=trace,
                after=(),
                deadline_s=None,
            )
            return await self.tell(request, call)
        return await self.client.tell(
            request,
            command_id=command_id,
            correlation_id=correlation_id or command_id,
            causation_id=causation_id,
            issued_at_us=issued_at_us,
        )

    async def _decide(self, route: Route, request: Message, digest: bytes, call: Call) -> Message:
        shard = shard_in(request, route)
        if not shard and route.shard == "cluster_id":
            shard = self.settings.cluster
        if not shard:
            raise Failure(
                "INVALID_ARGUMENT",
                f"{route.shard} is missing and no id names it: say for which {route.shard}",
                route.shard,
            )
        partition = partition_of(shard, self.settings.partitions)
        commander = self.ownership.commanders.get(partition)
        if commander is None:
            address = await self.store.owner_address(self.service.topic, partition)
            raise Failure(
                "FAILED_PRECONDITION" if address else "UNAVAILABLE",
                f"shard {shard!r} is owned elsewhere",
                reason=WRONG_OWNER if address else "",
                details={"address": address} if address else None,
            )
        entry = Entry(
            request=request,
            caller=call.caller,
            shard=shard,
            action=route.method,
            command_id=call.command_id,
            digest=digest,
            issued_at_us=call.issued_at_us,
            correlation_id=call.correlation_id,
            causation_id=call.causation_id,
            traceparent=observe.traceparent() or call.traceparent,
            expected=expected_of(request),
            answer=asyncio.get_running_loop().create_future(),
        )
        if is_elder(call) and (known := await self._remembered(commander, entry)) is not None:
            entry.settle(known)
            answer = await entry.answer
        else:
            answer = await commander.submit(entry)
        if answer.code:
            raise Failure(answer.code, answer.message, answer.field)
        return answer.receipt(call.command_id)

    async def _remembered(self, commander: Commander, entry: Entry) -> Answer | None:
        if commander.writer is None or not commander.serving.is_set():
            raise unknown_outcome("the partition is being claimed")
        base = commander.writer.reader.base
        topic = self.service.topic
        return await answered_long_ago(self.client, topic, commander.partition, base, entry)

    async def _await_positions(self, after: tuple[Position, ...]) -> None:
        for position in after:
            projector = self.ownership.projectors.get((position.topic, position.partition))
            if projector is None:
                raise Failure(
                    "FAILED_PRECONDITION",
                    f"{self.name} does not follow {position.topic}/{position.partition} here",
                    "after",
                )
            if not await projector.reached(position, AFTER_S_MAX):
                raise Failure(
                    "UNAVAILABLE", f"offset {position.offset} is not projected yet: retry"
                )


async def run(service: Service, settings: Settings) -> None:
    """Run one instance until SIGTERM or SIGINT; raises what must not be survived in silence."""
    observe.start(settings)
    shell = Shell(service, settings)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await shell.store.open()
    await shell.store.prepare(service.schema)
    await shell.authorizer.start()
    if seals(service):
        await erasures.replay(shell.sealing)
    served = await serve(
        service.contract, shell, settings, shell.authorizer.authenticate, travel_pb2
    )
    await served.ready(False)
    shell.address = served.address
    shell.owner = f"{service.name}@{served.address}"
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(shell.store.close)
        stack.push_async_callback(shell.authorizer.stop)
        stack.push_async_callback(shell.client.close)
        stack.push_async_callback(shell.travels.stop)
        stack.push_async_callback(served.stop)
        await stack.enter_async_context(observe.MetricsDoor(settings))
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(kept(shell.ownership.own(partition)))
                for partition in range(settings.partitions)
            ]
            loops.append(tasks.create_task(kept(shell.authorizer.run())))
            loops.append(tasks.create_task(kept(shell.travels.tidy())))
            if service.background is not None:
                loops.append(tasks.create_task(kept(service.background(shell))))
            await shell.ownership.serving()
            await served.ready()
            shell.log.info("serving", address=served.address)
            await stopping.wait()
            await served.ready(False)
            for loop in loops:
                loop.cancel()
        await shell.ownership.release()


def seals(service: Service) -> bool:
    """Whether the service meets what is sealed: by its contract, or because it erases."""
    messages = service.contract.DESCRIPTOR.message_types_by_name.values()
    return service.name == "loomdb" or any(has_any(message) for message in messages)


def snake(name: str) -> str:
    """`GetJob` → `get_job`."""
    return _SNAKE.sub("_", name).lower()


def digest_of(request: Message) -> bytes:
    """What makes two commands the same: the request without its secrets."""
    bare = request
    if secret_fields(described(request)):
        bare = type(request)()
        bare.CopyFrom(request)
        clear_secrets(bare)
    content = request.DESCRIPTOR.full_name.encode() + b"\0"
    return hashlib.sha256(content + bare.SerializeToString(deterministic=True)).digest()


def clear_secrets(request: Message) -> None:
    """Clear the fields marked `debug_redact`."""
    for name in secret_fields(described(request)):
        request.ClearField(name)


@cache
def secret_fields(descriptor: Descriptor) -> tuple[str, ...]:
    """The fields marked `debug_redact`."""
    return tuple(field.name for field in descriptor.fields if field.GetOptions().debug_redact)


def expected_of(request: Message) -> dict[str, int]:
    """The stream version that the caller says he saw, where the request has such a field."""
    if "expected_version" not in request.DESCRIPTOR.fields_by_name:
        return {}
    version = getattr(request, "expected_version")  # noqa: B009 - generated attribute
    return {str(getattr(request, request.DESCRIPTOR.fields[0].name)): version} if version else {}
