"""Whoever calls a service in tests of other things than rights, and the calls that are made."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from loom.decider import Rejected, Resource
from loom.kit.authorize import Caller, Decision, Scope
from loom.kit.call import Call
from loom.kit.commander import Commander
from loom.kit.entries import Entry
from loom.kit.errors import Failure
from loom.log.clock import now_us

__all__ = ["Judge", "call", "caller", "entry", "eventually", "running", "tell"]


class Judge:
    """Stands in for the policies: allows everything, and shows these organisations' rows or all."""

    view: Any = None

    def __init__(self, *organisations: str) -> None:
        self.organisations = list(organisations)

    def may(self, principal: str, action: str, resource: Resource) -> Decision:
        return Decision(True, ("test",))

    def scope(self, principal: str, action: str) -> Scope:
        return Scope(not self.organisations, self.organisations, [])

    def service_caller(self, name: str) -> Caller:
        return Caller(f"service:{name}", "platform", "service", self)

    def stale(self) -> bool:
        return False


def caller(*organisations: str) -> Caller:
    """Somebody who sees what these organisations have, or everything."""
    return Caller("user:usr-acme-x", "acme", "user", Judge(*organisations))


def call(who: Caller, **more: Any) -> Call:
    """A call of now; `more` are fields that matter to a test."""
    given: dict[str, Any] = {
        "command_id": uuid.uuid4().hex,
        "issued_at_us": now_us(),
        "correlation_id": "asking",
        "causation_id": "",
        "traceparent": "",
        "after": (),
        "deadline_s": None,
    }
    return Call(caller=who, **given | {name: value for name, value in more.items() if value})


async def tell(shell: Any, request: Message, who: Caller, **more: Any) -> Any:
    """The answer to a command, given to the service as its door would."""
    return await asyncio.wait_for(shell.tell(request, call(who, **more)), 20)


async def eventually(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The first answer that is there."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(Rejected, Failure):
                if answer := await ask():
                    return answer
            await asyncio.sleep(0.1)


def entry(request: Message, **more: Any) -> Entry:
    """A command as a commander takes it; `more` are fields that matter to a test."""
    given: dict[str, Any] = {
        "caller": caller(),
        "shard": "local",
        "action": "Count",
        "command_id": uuid.uuid4().hex,
        "digest": bytes(32),
        "issued_at_us": now_us(),
        "correlation_id": "story",
        "causation_id": "",
        "traceparent": "",
        "expected": {},
        "answer": asyncio.get_running_loop().create_future(),
    }
    return Entry(request=request, **given | more)


@contextlib.asynccontextmanager
async def running(commander: Commander) -> AsyncIterator[Commander]:
    """The commander while it serves."""
    task = asyncio.create_task(commander.run())
    await asyncio.wait_for(commander.serving.wait(), 30)
    try:
        yield commander
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
