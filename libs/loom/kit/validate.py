"""What a door refuses before anyone decides: bytes or fields that the contract does not allow.

1. Unknown fields are refused by name, at any depth: silence would drop what a newer client meant.
2. Doubles are finite, whatever the contract forgot.
3. Text without a rule of its own has at most 64 KiB and no control characters but tab and newline.
4. The rules of the contract (protovalidate) are all told at once, each with field and rule.
"""

import math
import re
from functools import cache
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from protovalidate import CompilationError, collect_violations

from loom.kit.descriptors import described, inside, is_map, rules_of
from loom.kit.errors import Failure, Violation, broken_rules, shown

__all__ = ["REQUEST_BYTES_MAX", "check", "parse", "unknown_fields"]

REQUEST_BYTES_MAX = 4 * 1024 * 1024
TEXT_CHARACTERS_MAX = 64 * 1024
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
UNKNOWN_MAX = 8
JSON_NAME = re.compile(r"\.fields\['([^']*)'\]")
JSON_KIND = re.compile(r"\.(?:string|struct)_value|\.list_value(?:\.values)?")
"""How a path names what holds a value of JSON, of which nobody who sent JSON knows."""


class Checked(NamedTuple):
    """A field that needs a look beyond its rules: `kind` is text, double or message."""

    name: str
    kind: str
    repeated: bool
    of_map: bool
    presence: bool


def parse(kind: type[Message], data: bytes) -> Message:
    """The message in these bytes, checked; raises Failure INVALID_ARGUMENT naming what is wrong."""
    try:
        message = kind.FromString(data)
    except DecodeError as error:
        name = kind.DESCRIPTOR.full_name
        raise Failure(
            "INVALID_ARGUMENT", f"the {len(data)} bytes are no message of type {name}"
        ) from error
    check(message)
    return message


def check(message: Message) -> None:
    """Raise Failure INVALID_ARGUMENT, naming each field, unless the contract allows the message."""
    unknown = unknown_fields(message)
    if unknown:
        raise Failure(
            "INVALID_ARGUMENT",
            f"unknown fields {', '.join(unknown)}: want those of {message.DESCRIPTOR.full_name}",
            violations=[Violation(name, "is not in the contract", "known") for name in unknown],
        )
    found: list[Violation] = []
    inspect(message, "", found)
    if found:
        found = [one._replace(field=as_json_path(one.field)) for one in found]
        first = found[0]
        raise Failure("INVALID_ARGUMENT", f"{first.field}: {first.description}", violations=found)
    try:
        violations = collect_violations(message)
    except CompilationError as error:
        raise Failure(
            "INTERNAL", f"the rules of {message.DESCRIPTOR.full_name} do not compile"
        ) from error
    if violations:
        raise broken_rules(violations, described(message))


def as_json_path(path: str) -> str:
    """A path inside free JSON as its sender writes it: `payload.name`, not `…fields['name']`."""
    return JSON_KIND.sub("", JSON_NAME.sub(r".\1", path))


def unknown_fields(message: Message) -> list[str]:
    """Paths of fields that the contract does not know, e.g. `resources.#77`; at most eight."""
    if flat(described(message)):
        return sorted_numbers(message, "")[:UNKNOWN_MAX]
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() == message.ByteSize():
        return []
    found: list[str] = []
    search(message, "", found)
    return found[:UNKNOWN_MAX]


@cache
def flat(descriptor: Descriptor) -> bool:
    """True for a type that holds no messages."""
    return all(field.message_type is None for field in descriptor.fields)


def sorted_numbers(message: Message, prefix: str) -> list[str]:
    """The unknown fields of a message itself."""
    numbers = sorted({field.field_number for field in UnknownFieldSet(message)})
    return [f"{prefix}#{number}" for number in numbers]


def search(message: Message, prefix: str, found: list[str]) -> None:
    """Add the unknown fields of a message and of all that it holds."""
    found.extend(sorted_numbers(message, prefix))
    for field, value in message.ListFields():
        if field.message_type is None or len(found) >= UNKNOWN_MAX:
            continue
        for key, one in parts(field, value):
            search(one, f"{prefix}{field.name}{key}.", found)


def parts(field: FieldDescriptor, value: Any) -> list[tuple[str, Message]]:
    """The messages that a field holds, each with its subscript."""
    if is_map(field):
        if inside(field).fields_by_name["value"].message_type is None:
            return []
        return [(f"[{shown(key)}]", value[key]) for key in sorted(value)]
    if field.is_repeated:
        return [(f"[{index}]", one) for index, one in enumerate(value)]
    return [("", value)]


def inspect(message: Message, prefix: str, found: list[Violation]) -> None:
    """Add what is wrong with the text and the doubles of a message and of all that it holds."""
    for field in plan(described(message)):
        if field.presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if field.of_map:
            for key in sorted(value):
                if isinstance(key, str):
                    judge("text", key, f"{prefix}{field.name}[{shown(key)}]", found)
                if field.kind:
                    judge(field.kind, value[key], f"{prefix}{field.name}[{shown(key)}]", found)
        elif field.repeated:
            for index, one in enumerate(value):
                judge(field.kind, one, f"{prefix}{field.name}[{index}]", found)
        else:
            judge(field.kind, value, prefix + field.name, found)


def judge(kind: str, value: Any, path: str, found: list[Violation]) -> None:
    """Add what is wrong with one value."""
    if kind == "message":
        inspect(value, path + ".", found)
    elif kind == "double":
        if not math.isfinite(value):
            found.append(Violation(path, f"must be finite (given: {value})", "double.finite"))
    elif len(value) > TEXT_CHARACTERS_MAX:
        told = f"has {len(value)} characters: at most {TEXT_CHARACTERS_MAX} are allowed"
        found.append(Violation(path, told, "string.max_len"))
    else:
        bad = CONTROL.search(value)
        if bad:
            told = f"holds the control character U+{ord(bad.group()):04X} at {bad.start()}"
            found.append(Violation(path, told, "string.printable"))


@cache
def plan(descriptor: Descriptor) -> tuple[Checked, ...]:
    """The fields of a type that need a look beyond their own rules; few, so a check is cheap."""
    return tuple(
        field for one in descriptor.fields if (field := checked(one, frozenset())) is not None
    )


def checked(field: FieldDescriptor, above: frozenset[str]) -> Checked | None:
    """How to look at one field, or None where its own rules say enough."""
    of_map = is_map(field)
    inner = inside(field).fields_by_name["value"] if of_map else field
    kind = kind_of(inner, above)
    if not kind and not (
        of_map and inside(field).fields_by_name["key"].type == FieldDescriptor.TYPE_STRING
    ):
        return None
    repeated = field.is_repeated and not of_map
    presence = field.has_presence and kind == "message"
    return Checked(field.name, kind, repeated, of_map, presence)


def kind_of(field: FieldDescriptor, above: frozenset[str]) -> str:
    """text, double or message where a value of this field needs a look, else ""."""
    match field.type:
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return "double"
        case FieldDescriptor.TYPE_STRING:
            return "" if ruled(field) else "text"
        case FieldDescriptor.TYPE_MESSAGE | FieldDescriptor.TYPE_GROUP:
            return "message" if worth(inside(field), above) else ""
        case _:
            return ""


def worth(descriptor: Descriptor, above: frozenset[str]) -> bool:
    """True where a type holds anything to look at; a type that holds itself is looked at."""
    if descriptor.full_name in above:
        return True
    below = above | {descriptor.full_name}
    return any(checked(field, below) is not None for field in descriptor.fields)


def ruled(field: FieldDescriptor) -> bool:
    """True where the contract names the allowed values or their form itself."""
    rules = rules_of(field)
    text = rules.repeated.items.string if field.is_repeated else rules.string
    return bool(text.pattern or text.HasField("const") or getattr(text, "in")) or (
        text.WhichOneof("well_known") is not None
    )
