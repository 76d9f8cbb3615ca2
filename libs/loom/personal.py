"""What is personal in a message or in a JSON document, and whose it is: read from declarations.

1. A contract says it once, by the field option `personal`; for JSON payloads the places are listed
   beside them (`loom.declared`). Nothing is guessed from names or values.
2. Pure: no key is known here. A sealed value is text, `sealed:1:<key id>:<base64url>`, so a column
   of text or a JSON string holds it; which key it needs can be read without any key.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from loom.v1 import common_pb2

__all__ = [
    "Place",
    "escaped",
    "has_any",
    "key_of",
    "organisation_of",
    "places",
    "sealed_for",
    "sealed_in",
    "spots",
    "unescaped",
    "whole_organisation",
]

SEALED = re.compile(r"sealed:1:([0-9a-f]{24}\.[0-9]{1,9}):[A-Za-z0-9_-]+")
# The stubs type an extension by its field, not by the message it extends.
PERSONAL: Any = common_pb2.personal


class Place(NamedTuple):
    """A personal field of a message that holds something."""

    message: Message
    """The message, or the part of it, whose field it is."""
    field: str
    path: str
    """E.g. `parts[2].note`; a field of content that goes from event to event has its name alone, a
    JSON payload none."""
    id: str
    """The id that goes with the content; empty: that of the record it stands in."""
    subject: str
    """Whose it is; empty for the organisation itself."""
    pointers: tuple[str, ...] | None
    """The personal places of a JSON payload; None where all of the field is personal."""
    action: str
    """The action that shows it to who may do it; empty for `ReadPersonal`."""


class Mark(NamedTuple):
    """A field's declaration."""

    field: str
    subject: str
    paths: str
    id: str
    name: str
    action: str


@cache
def marks(descriptor: Descriptor) -> tuple[Mark, ...]:
    """The personal fields that a message type declares itself."""
    found = []
    for field in descriptor.fields:
        options = field.GetOptions()
        if options.HasExtension(PERSONAL):
            mark = options.Extensions[PERSONAL]
            found.append(
                Mark(
                    field.name,
                    mark.subject,
                    mark.paths,
                    mark.id,
                    mark.name or field.name,
                    mark.action,
                )
            )
    return tuple(found)


@cache
def inner(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    """The fields that hold messages with personal fields of their own."""
    return tuple(
        field
        for field in descriptor.fields
        if field.message_type is not None
        and not field.message_type.GetOptions().map_entry
        and reaches(field.message_type, frozenset((descriptor.full_name,)))
    )


def reaches(descriptor: Descriptor, above: frozenset[str]) -> bool:
    """True where a type or one that it holds has a personal field."""
    if marks(descriptor):
        return True
    if descriptor.full_name in above:
        return False
    below = above | {descriptor.full_name}
    return any(
        field.message_type is not None and reaches(field.message_type, below)
        for field in descriptor.fields
    )


@cache
def has_any(descriptor: Descriptor) -> bool:
    """Whether messages of this type can hold anything personal."""
    return bool(marks(descriptor) or inner(descriptor))


def places(message: Message, prefix: str = "") -> Iterator[Place]:
    """The personal fields of a message and of all that it holds, where they hold something."""
    for mark in marks(message.DESCRIPTOR):
        if not present(message, mark.field):
            continue
        subject = str(getattr(message, mark.subject)) if mark.subject else ""
        listed = tuple(getattr(message, mark.paths)) if mark.paths else None
        own = str(getattr(message, mark.id)) if mark.id else ""
        path = prefix + mark.field
        if own:
            path = "" if mark.paths else mark.name
        yield Place(message, mark.field, path, own, subject, listed, mark.action)
    for field in inner(message.DESCRIPTOR):
        value = getattr(message, field.name)
        if field.is_repeated:
            for index, one in enumerate(value):
                yield from places(one, f"{prefix}{field.name}[{index}].")
        elif message.HasField(field.name):
            yield from places(value, f"{prefix}{field.name}.")


def present(message: Message, field: str) -> bool:
    """Whether a field holds something."""
    value = getattr(message, field)
    return message.HasField(field) if isinstance(value, Message) else bool(value)


def key_of(text: object) -> str:
    """The id of the key that a sealed value needs; "" for anything else."""
    found = SEALED.fullmatch(text) if isinstance(text, str) else None
    return found.group(1) if found else ""


def sealed_for(event: Message) -> list[str]:
    """The subjects for whom something is sealed in an event; "" for the organisation itself."""
    if not has_any(event.DESCRIPTOR):
        return []
    found: set[str] = set()
    for place in places(event):
        value = getattr(place.message, place.field)
        if isinstance(value, Message):
            continue
        if place.pointers is None:
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
            if key_of(text):
                found.add(place.subject)
        elif place.pointers and any(sealed_in(json.loads(value))):
            found.add(place.subject)
    return sorted(found)


def sealed_in(document: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The sealed values of a JSON document: each one's JSON pointer and its key's id."""
    if key := key_of(document):
        yield path, key
    elif isinstance(document, Mapping):
        for name in sorted(document):
            yield from sealed_in(document[name], f"{path}/{escaped(name)}")
    elif isinstance(document, list):
        for index, one in enumerate(document):
            yield from sealed_in(one, f"{path}/{index}")


def spots(document: Any, pointer: str) -> Iterator[tuple[Any, Any, str]]:
    """Where a JSON pointer leads: container, name or index, and the exact pointer.

    A step `*` stands for every member or item; what is not there leads nowhere. The root itself
    has no container and is none of the spots.
    """
    steps = [unescaped(step) for step in pointer.split("/")[1:]]
    if steps:
        yield from walk(document, steps, "")


def walk(document: Any, steps: Sequence[str], path: str) -> Iterator[tuple[Any, Any, str]]:
    """The spots below a part of the document."""
    for name in names_in(document, steps[0]):
        at = f"{path}/{escaped(str(name))}"
        if len(steps) == 1:
            yield document, name, at
        else:
            yield from walk(document[name], steps[1:], at)


def names_in(document: Any, step: str) -> list[Any]:
    """The members or items that a step names."""
    if isinstance(document, dict):
        return sorted(document) if step == "*" else [step] if step in document else []
    if isinstance(document, list):
        if step == "*":
            return list(range(len(document)))
        if step.isdecimal() and len(step) < 10 and int(step) < len(document):
            return [int(step)]
    return []


def escaped(name: str) -> str:
    """A name as a step of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def unescaped(step: str) -> str:
    """The name that a step of a JSON pointer stands for."""
    return step.replace("~1", "/").replace("~0", "~")


def organisation_of(shard: str) -> str:
    """The organisation whose keys seal what a shard decides; a project's id begins with it."""
    return shard.partition(".")[0]


def whole_organisation(organisation: str) -> str:
    """The subject of personal content that names no subject of its own."""
    return f"organisation:{organisation}"
