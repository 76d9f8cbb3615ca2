"""What a deciding service hands to the shell: its verbs, by name, and whom it hears.

The shell reads everything else — topic, shard field, RPCs, events — from the contract's descriptor.
"""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from loom.decider import Command, Context, Recorded, Resource, Statement, shard_of
from loom.log.catalogue import CONTRACT_OPTION, contracts

__all__ = ["Hears", "Service", "declared", "method_of", "shard_field", "shard_named"]


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
    background: Callable[[Any], Coroutine[Any, Any, None]] | None = None
    """A loop of its own beside the kit's, for the few services that have one; gets the shell."""

    @property
    def topic(self) -> str:
        """The only topic that it writes."""
        return f"loomos.{self.name}"


def declared(contract: ModuleType) -> ServiceDescriptor:
    """The service that a contract's module declares."""
    for service in contract.DESCRIPTOR.services_by_name.values():
        if service.GetOptions().Extensions[CONTRACT_OPTION].name:
            return service
    raise LookupError(f"{contract.__name__} declares no service")


def shard_field(service: ServiceDescriptor) -> str:
    """The field that names the shard in commands."""
    return service.GetOptions().Extensions[CONTRACT_OPTION].shard


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


def method_of(request: Message) -> tuple[ServiceDescriptor, MethodDescriptor]:
    """The RPC whose request this is; every RPC has a request message of its own."""
    for contract in contracts():
        for service in contract.services_by_name.values():
            for method in service.methods:
                if method.input_type is request.DESCRIPTOR:
                    return service, method
    raise LookupError(f"{request.DESCRIPTOR.full_name} is the request of no RPC")
