"""A deciding service small enough to see through, and commanders that run it on a test's topic."""

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tests import callers

from loom.decider import Code, Rejected, Resource
from loom.kit.authorize import Caller, Decision
from loom.kit.commander import Commander
from loom.kit.contract import Service
from loom.kit.entries import Entry
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as pb

__all__ = ["Judge", "entry", "running"]


@dataclass(slots=True)
class State:
    shard: str
    seen: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tally(Service):
    at: str = ""

    @property
    def topic(self) -> str:
        return self.at


class Judge(callers.Judge):
    """Shows everything but secret plans; may be behind security's log."""

    behind = False

    def may(self, principal: str, action: str, resource: Resource) -> Decision:
        if self.behind:
            return Decision(False, ("view_stale",))
        return Decision(resource.id != "secret.plans", ("test",))


def decide(command: Any, state: State, context: Any) -> list[Any]:
    match command.node_id:
        case "bug":
            raise KeyError("the service's own mistake")
        case "refuse":
            raise Rejected(Code.FAILED_PRECONDITION, f"{len(state.seen)} are enough", "node_id")
        case "same":
            return []
    return [pb.NodeUncordoned(node_id=f"tally-{command.node_id}")]


def resource(command: Any, state: State) -> Resource:
    return Resource("project", "secret.plans" if command.node_id == "foreign" else "acme.vision")


@contextlib.asynccontextmanager
async def running(bus: Any, topic: str, owner: str = "test") -> AsyncIterator[Commander]:
    """A commander that serves the topic's partition."""
    service = Tally(
        name="tally",
        contract=common_pb2,
        initial=State,
        decide=decide,
        resource=resource,
        evolve=lambda state, event: state.seen.append(type(event).__name__),
        project=lambda recorded: [],
        schema="",
        at=topic,
    )
    async with callers.running(Commander(service, bus, 0, Judge(), owner)) as commander:
        yield commander


def entry(
    node_id: str,
    command_id: str = "",
    content: bytes = b"1",
    judge: Judge | None = None,
    **more: Any,
) -> Entry:
    """A command about a node, to be counted."""
    request = pb.UncordonNodeRequest(node_id=node_id)
    who = Caller("user:usr-acme-x", "acme", "user", judge or Judge())
    more |= {"command_id": command_id or uuid.uuid4().hex, "digest": content.ljust(32, b"\0")}
    return callers.entry(request, caller=who, **more)
