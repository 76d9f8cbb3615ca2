"""The event catalogue: event type ↔ message class, read from the contracts' descriptors.

1. Nothing is registered by hand: a message with the `event` option is an event of its contract.
2. The type on the bus is the message's name in lower-dotted form: `JobPreempted` → `job.preempted`.
3. An older schema version is read through a chain of upcasters, one step each; a version newer than
   the contract stops the reader, for silence would be a hole in the truth.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

import loom.v1
from loom.v1 import common_pb2

__all__ = [
    "UPCASTERS",
    "Undecodable",
    "contracts",
    "decode",
    "events",
    "name_of",
    "type_of",
    "version_of",
]

_CAPITAL = re.compile(r"(?<!^)(?=[A-Z][a-z])|(?<=[a-z0-9])(?=[A-Z])")

# The stubs type an extension by its field, not by the message it extends.
EVENT_OPTION: Any = common_pb2.event
CONTRACT_OPTION: Any = common_pb2.contract

UPCASTERS: dict[tuple[str, int], Callable[[bytes], bytes]] = {}
"""(type, version) → payload of version + 1. Empty while every event is at its first version."""


class Undecodable(Exception):
    """A valid record whose payload this code cannot read: the reader must stop, not skip."""


@cache
def contracts() -> tuple[FileDescriptor, ...]:
    """All contracts of `loom.v1`, sorted by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(loom.v1.__path__))
    return tuple(
        importlib.import_module(f"loom.v1.{name}").DESCRIPTOR
        for name in names
        if name.endswith("_pb2")
    )


@cache
def events() -> dict[str, type[Message]]:
    """Every event type of every contract and its class."""
    found: dict[str, type[Message]] = {}
    for contract in contracts():
        for name in sorted(contract.message_types_by_name):
            descriptor = contract.message_types_by_name[name]
            if version_of(descriptor):
                found[type_of(descriptor)] = GetMessageClass(descriptor)
    return found


@cache
def type_of(descriptor: Descriptor) -> str:
    """The event type of a message, e.g. `job.preempted`."""
    return _CAPITAL.sub(".", descriptor.name).lower()


@cache
def version_of(descriptor: Descriptor) -> int:
    """The schema version that the contract declares; 0 for a message that is no event."""
    options = descriptor.GetOptions()
    return options.Extensions[EVENT_OPTION].version


@cache
def name_of(contract: FileDescriptor) -> str:
    """The service that a contract declares, or "" where it declares none."""
    for service in contract.services_by_name.values():
        return service.GetOptions().Extensions[CONTRACT_OPTION].name
    return ""


def decode(type_name: str, version: int, payload: bytes) -> Message:
    """The event of a valid record; raises Undecodable where this code cannot read it."""
    known = readable().get(type_name)
    if known is None:
        raise Undecodable(f"event type {type_name!r} is in no contract known here")
    parse, current = known
    if version != current:
        payload = upcast(type_name, version, payload, current)
    try:
        return parse(payload)
    except DecodeError as error:
        raise Undecodable(f"{type_name}: {error}") from error


@cache
def readable() -> dict[str, tuple[Callable[[bytes], Message], int]]:
    """For every event type: how its payload is parsed, and the contract's schema version."""
    return {name: (cls.FromString, version_of(cls.DESCRIPTOR)) for name, cls in events().items()}


def upcast(type_name: str, version: int, payload: bytes, current: int) -> bytes:
    """The payload brought from its own schema version to the contract's."""
    if not 1 <= version <= current:
        raise Undecodable(f"{type_name}: schema version {version}, this code reads up to {current}")
    for step in range(version, current):
        upcaster = UPCASTERS.get((type_name, step))
        if upcaster is None:
            raise Undecodable(f"{type_name}: no upcaster from version {step}")
        payload = upcaster(payload)
    return payload
