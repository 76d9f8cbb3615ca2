"""A test of a rule in three lines: `given(service, …).when(command).then(…)` or `.refused(…)`.

`service` is the package of a deciding service, e.g. `loomos.scheduler`. Beside the answer each step
checks what holds for every rule: `decide` leaves the state alone, decides the same again, and each
event names its stream.
"""

import copy
import importlib
from types import ModuleType
from typing import Any

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected, fold

__all__ = ["NOW_US", "Given", "Outcome", "given"]

NOW_US = 1_800_000_000_000_000


def given(service: ModuleType, *events: Message, shard: str = "local") -> "Given":
    """A shard of the service after these events."""
    verbs = {
        name: importlib.import_module(f"{service.__name__}.{name}")
        for name in ("state", "decide", "evolve")
    }
    state = fold(verbs["evolve"].evolve, verbs["state"].initial(shard), events)
    return Given(verbs, state, shard)


class Given:
    """A folded state; each `when` starts from a copy of it."""

    def __init__(self, verbs: dict[str, ModuleType], state: Any, shard: str) -> None:
        self.verbs, self.state, self.shard = verbs, state, shard

    def when(
        self,
        command: Message,
        actor: str = "service:test",
        at_us: int = NOW_US,
        command_id: str = "c-1",
    ) -> "Outcome":
        """What the command comes to."""
        context = Context(command_id, at_us, actor, self.shard)
        before = copy.deepcopy(self.state)
        first = attempt(self.verbs["decide"].decide, command, self.state, context)
        second = attempt(self.verbs["decide"].decide, command, before, context)
        assert self.state == before, "decide changed the state"
        assert shown(first) == shown(second), "the same decision came out differently"
        return Outcome(self, first)


class Outcome:
    """Events, or a refusal."""

    def __init__(self, origin: Given, found: list[Message] | Rejected) -> None:
        self.origin, self.found = origin, found

    def then(self, *events: Message) -> Given:
        """These events and no others; returns the state after them."""
        assert shown(self.found) == shown(list(events))
        return self.accepted()

    def accepted(self) -> Given:
        """Any events; returns the state after them."""
        assert not isinstance(self.found, Rejected), shown(self.found)
        state = copy.deepcopy(self.origin.state)
        for event in self.found:
            stream = getattr(event, event.DESCRIPTOR.fields[0].name)
            assert stream, f"{type(event).__name__} names no stream"
        fold(self.origin.verbs["evolve"].evolve, state, self.found)
        return Given(self.origin.verbs, state, self.origin.shard)

    def refused(self, code: str, field: str | None = None) -> Rejected:
        """A refusal with this code, about this field where one is named."""
        assert isinstance(self.found, Rejected), shown(self.found)
        assert self.found.code == code, shown(self.found)
        assert code in vars(Code).values(), f"{code} is not a code of loom.decider"
        assert field is None or self.found.field == field, shown(self.found)
        return self.found

    def one(self, kind: type) -> Any:
        """The only event of this class."""
        assert not isinstance(self.found, Rejected), shown(self.found)
        (event,) = [event for event in self.found if isinstance(event, kind)]
        return event


def attempt(
    decide: Any, command: Message, state: Any, context: Context
) -> list[Message] | Rejected:
    """The events, or the refusal as a value."""
    try:
        return decide(command, state, context)
    except Rejected as refusal:
        return refusal


def shown(found: list[Message] | Rejected) -> list[str]:
    """A readable, comparable form."""
    if isinstance(found, Rejected):
        return [f"{found.code} {found.field}: {found.message}"]
    return [f"{type(event).__name__} {event}" for event in found]
