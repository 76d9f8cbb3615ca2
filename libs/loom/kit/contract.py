"""What a deciding service hands to the shell: its verbs, by name, and whom it hears.

The shell reads everything else — topic, shard field, RPCs, events — from the contract's descriptor.
"""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from google.protobuf.message import Message

from loom.decider import Command, Context, Recorded, Resource, Statement, shard_of

__all__ = ["Hears", "Service", "shard_named"]


@dataclass(frozen=True, slots=True)
class Hears:
    """A foreign service whose events this one lets in by `inputs.advanced`."""

    service: str
    types: tuple[str, ...] = ()
    """Event types listened to; empty means all of them."""
    same_shard: bool = False
    """True where both shard by the same key, so that a shard hears its own namesake only."""
    shard: Callable[[Recorded], str] | None = None
    """Names the one shard that an event concerns, founding it; "" or no function: all shards."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service in the one shape."""

    name: str
    contract: ModuleType
    initial: Callable[[str], Any]
    decide: Callable[[Message, Any, Context], list[Message]]
    resource: Callable[[Message, Any], Resource | None]
    evolve: Callable[[Any, Message], None]
    project: Callable[[Recorded], list[Statement]]
    schema: str
    """The DDL of its read models."""
    query: ModuleType | None = None
    react: Callable[[Recorded, Any], list[Command]] | None = None
    effect: Callable[[Recorded, Any], Awaitable[list[Command]]] | None = None
    stream: ModuleType | None = None
    door: ModuleType | None = None
    due: Callable[[Any], int | None] | None = None
    hears: tuple[Hears, ...] = ()
    follows: tuple[str, ...] = ()
    """Further topics whose events `project` gets; a table has one source topic."""
    timeless: tuple[str, ...] = ()
    """Queries that no table answers: they are refused as of a moment."""
    background: Callable[[Any], Coroutine[Any, Any, None]] | None = None
    """A loop of its own beside the kit's, for the few services that have one; gets the shell."""

    @property
    def topic(self) -> str:
        """The only topic that it writes."""
        return f"loomos.{self.name}"


def shard_named(request: Message, field: str) -> str:
    """The shard that a command is for: named outright, or by the id of the stream in field 1."""
    descriptor = request.DESCRIPTOR
    if field in descriptor.fields_by_name:
        named = getattr(request, field)
        if named:
            return named
    if descriptor.fields:
        first = getattr(request, descriptor.fields[0].name)
        if isinstance(first, str):
            return shard_of(first)
    return ""
