"""Time travel: any state of a service at any moment, folded from the log and from nothing else.

1. The cut of a moment is, for each partition, the last command whose time is not later; a command
   is never split, for its records share one time.
2. Foreign facts are those that the service had let in by then, in the ranges that its log names.
3. `shown` is canonical: two equal states give the same bytes, whatever the order they grew in.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from loom.decider import Position
from loom.kit.contract import Service
from loom.kit.folder import Folder
from loom.log.judge import Kind
from loom.log.reader import Reader
from loom.log.topics import Bus

__all__ = ["fold_until", "shown", "state_digest", "time_at"]


async def fold_until(
    service: Service, bus: Bus, partition: int, until_us: int | None = None
) -> tuple[Folder, int]:
    """The partition's states at a time (None: now) and the offset of the last record folded.

    The folder's connections are closed already. An empty log gives offset -1.
    """
    folder = Folder(service, bus, partition)
    reader = Reader(bus, service.topic, partition)
    end = await reader.start()
    last = -1
    try:
        while reader.next_offset < end:
            for record in await reader.batch():
                if record.verdict.kind != Kind.EVENT or record.offset >= end:
                    continue
                recorded = reader.recorded(record)
                if until_us is not None and recorded.at_us > until_us:
                    return folder, last
                await folder.fold(recorded)
                last = record.offset
    finally:
        await folder.stop()
        await reader.stop()
    return folder, last


async def time_at(bus: Bus, place: Position) -> int | None:
    """When the event at a place, or the last one before it, was decided; None without one."""
    reader = Reader(bus, place.topic, place.partition)
    end = min(await reader.start(), place.offset + 1)
    found = None
    try:
        while reader.next_offset < end:
            for record in await reader.batch():
                if record.offset >= end or record.verdict.kind != Kind.EVENT:
                    continue
                recorded = reader.recorded(record)
                if recorded.position.incarnation == place.incarnation:
                    found = recorded.at_us
    finally:
        await reader.stop()
    return found


def state_digest(state: Any) -> str:
    """SHA-256 of what `shown` gives, as hex."""
    text = json.dumps(shown(state), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def shown(value: Any) -> Any:
    """A state as plain JSON values, in an order that only depends on its content."""
    match value:
        case None | bool() | int() | float() | str():
            # An IntEnum is an int: people read its name.
            return value.name if isinstance(value, Enum) else value
        case bytes():
            return value.hex()
        case Enum():
            return value.name
        case Message():
            return MessageToDict(value, preserving_proto_field_name=True)
        case Mapping():
            return {key_of(key): shown(value[key]) for key in sorted(value, key=key_of)}
        case set() | frozenset():
            return sorted((shown(one) for one in value), key=json.dumps)
        case _ if dataclasses.is_dataclass(value):
            names = [one.name for one in dataclasses.fields(value)]
            return {name: shown(getattr(value, name)) for name in names}
        case _:
            return [shown(one) for one in value]


def key_of(key: Any) -> str:
    """A mapping's key as JSON has it."""
    plain = shown(key)
    return plain if isinstance(plain, str) else json.dumps(plain)
