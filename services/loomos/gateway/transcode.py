"""HTTP ↔ messages, as each RPC's `google.api.http` rule says.

1. JSON is refused where two readers could differ: duplicate keys, NaN, infinities, depth, encoding.
2. A field that the contract does not know is refused by name, in a body and in a query alike.
3. What is not text in JSON (64-bit integers, bytes, times) has the form of proto3's JSON mapping.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from google.api import http_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message

from loom.kit.descriptors import described, http_rule, inside, is_map
from loom.kit.errors import Failure, Violation, shown
from loom.kit.routes import Route, route

__all__ = ["Binding", "bindings", "parsed_json", "request_of", "to_json"]

DEPTH_MAX = 32
INTEGER_DIGITS_MAX = 20
VARIABLE = re.compile(r"\{([a-z0-9_.]+)(?:=([^}]*))?\}")
UNKNOWN = re.compile(r'has no field named "([^"]*)" at "([^"]*)"')
UNPARSED = re.compile(r"(?s)Failed to parse (\S+) field: (.*)")
NO_ENUM = re.compile(r"Invalid enum value (.*) for enum type ([a-zA-Z0-9_.]+)")
TEXTUAL = ("google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask")


class Binding(NamedTuple):
    """One way in which HTTP reaches an RPC."""

    route: Route
    verb: str
    template: str
    """As in the contract: `/api/v1/jobs/{job_id}:cancel`."""
    body: str
    """"" for none, `*` for the whole request, else the field that the body fills."""
    response_body: str
    summary_of: str
    """Full name of the RPC, under which its comment is found."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Field paths that the URL's path fills."""
        return tuple(found.group(1) for found in VARIABLE.finditer(self.template))

    @property
    def pattern(self) -> str:
        """The template in the router's own notation."""

        def variable(found: re.Match[str]) -> str:
            deep = (
                ":path" if "/" in (found.group(2) or "") or "**" in (found.group(2) or "") else ""
            )
            return "{" + found.group(1).replace(".", "__") + deep + "}"

        return VARIABLE.sub(variable, self.template)


def bindings(files: Iterable[FileDescriptor]) -> list[Binding]:
    """All HTTP bindings of these contracts, the more literal paths first."""
    found = [one for file in files for one in of_file(file)]
    return sorted(found, key=lambda one: (specificity(one.template), one.template, one.verb))


def of_file(file: FileDescriptor) -> Iterator[Binding]:
    """The bindings of one contract; RPCs marked internal have none."""
    for service in file.services_by_name.values():
        for method in service.methods:
            declared = route(method)
            if declared.internal or declared.streams_in:
                continue
            rule = http_rule(method)
            if rule is None:
                continue
            for one in (rule, *rule.additional_bindings):
                binding = of_rule(declared, one, method.full_name)
                if binding is not None:
                    yield binding


def of_rule(declared: Route, rule: http_pb2.HttpRule, name: str) -> Binding | None:
    """The binding that one rule states."""
    verb = rule.WhichOneof("pattern")
    if verb in (None, "custom"):
        return None
    template = getattr(rule, verb)
    return Binding(declared, verb.upper(), template, rule.body, rule.response_body, name)


def specificity(template: str) -> list[int]:
    """Orders paths so that a literal segment is tried before a variable."""
    ranks = []
    for segment in template.strip("/").split("/"):
        if not VARIABLE.search(segment):
            ranks.append(0 if ":" not in segment else -1)
        else:
            ranks.append(1 if segment.endswith("}") is False else 2)
    return ranks


def parsed_json(body: bytes) -> Any:
    """The JSON value of a body; raises Failure INVALID_ARGUMENT."""
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=unique,
            parse_constant=no_constant,
            parse_int=integer,
            parse_float=finite,
        )
    except UnicodeDecodeError as error:
        raise refused("body", f"is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise refused("body", f"is nested deeper than {DEPTH_MAX}") from error
    except json.JSONDecodeError as error:
        raise refused("body", f"is not JSON: {error.msg} at character {error.pos}") from error
    if depth_above(value, DEPTH_MAX):
        raise refused("body", f"is nested deeper than {DEPTH_MAX}")
    return value


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once each."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise refused(key, "stands twice in one object")
        found[key] = value
    return found


def no_constant(name: str) -> Any:
    """NaN and infinities are not JSON."""
    raise refused("body", f"holds {name}: numbers must be finite")


def integer(digits: str) -> int:
    """An integer that some 64-bit field could hold."""
    if len(digits) > INTEGER_DIGITS_MAX:
        raise refused("body", f"holds the number {shown(digits)}: want 64 bits")
    return int(digits)


def finite(digits: str) -> float:
    """A number that a double can hold."""
    value = float(digits)
    if not math.isfinite(value):
        raise refused("body", f"holds the number {shown(digits)}: numbers must be finite")
    return value


def depth_above(value: Any, most: int) -> bool:
    """True where a value is nested deeper than allowed."""
    level = [value]
    for _ in range(most):
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
        level = [one for one in below if isinstance(one, dict | list)]
        if not level:
            return False
    return True


def refused(field: str, why: str) -> Failure:
    """A request that cannot be understood, naming the field to blame."""
    return Failure(
        "INVALID_ARGUMENT", f"{field}: {why}", violations=[Violation(field, why, "json")]
    )


def request_of(
    binding: Binding,
    path: Mapping[str, str],
    query: Iterable[tuple[str, str]],
    body: bytes,
) -> Message:
    """The request message that a path, a query and a body make; raises Failure INVALID_ARGUMENT."""
    content: dict[str, Any] = {}
    descriptor = described(binding.route.request)
    if binding.body:
        value = parsed_json(body) if body else {}
        if binding.body == "*":
            if not isinstance(value, dict):
                raise refused("body", f"is {shown(value)}: want an object")
            content = value
        else:
            content = {binding.body: value}
    elif body:
        raise refused("body", f"must be empty for {binding.verb} {binding.template}")
    for name, value in query:
        if binding.body == "*":
            raise refused(name, "is given in the query: this call takes a JSON body only")
        put(content, descriptor, name, value, many=True)
    for variable in binding.variables:
        put(content, descriptor, variable, path[variable.replace(".", "__")], many=False)
    return message_of(binding.route.request, content)


def put(content: dict[str, Any], descriptor: Descriptor, name: str, value: str, many: bool) -> None:
    """Set the field at a dotted path to a value that came as text."""
    at, steps = content, name.split(".")
    for index, step in enumerate(steps):
        field = descriptor.fields_by_name.get(step)
        if field is None:
            raise refused(name, f"is not a field of {descriptor.full_name}")
        last = index == len(steps) - 1
        if is_map(field):
            if index != len(steps) - 2:
                raise refused(name, f"want {step}.<key>=<value>")
            inner = at.setdefault(step, {})
            key, value_field = steps[-1], inside(field).fields_by_name["value"]
            if key in inner:
                raise refused(name, "is given twice")
            inner[key] = scalar(value_field, name, value)
            return
        if last:
            assign(at, field, name, value, many)
            return
        if field.message_type is None or field.is_repeated:
            raise refused(name, f"has no fields inside {step}")
        at = at.setdefault(step, {})
        if not isinstance(at, dict):
            raise refused(name, f"is given in the body and in the URL: {step}")
        descriptor = field.message_type


def assign(at: dict[str, Any], field: FieldDescriptor, name: str, value: str, many: bool) -> None:
    """Set one field, or add to it where it is repeated."""
    fresh = scalar(field, name, value)
    if field.is_repeated:
        if not many:
            raise refused(name, "is repeated and cannot stand in a path")
        at.setdefault(field.name, []).append(fresh)
        return
    for known in (field.name, field.json_name):
        if known in at and at[known] != fresh:
            raise refused(name, f"is given twice: {shown(at[known])} and {shown(value)}")
    at.pop(field.json_name, None)
    at[field.name] = fresh


def scalar(field: FieldDescriptor, name: str, value: str) -> Any:
    """Text from a URL as the JSON value of a field."""
    if field.message_type is not None and field.message_type.full_name not in TEXTUAL:
        raise refused(name, f"is a {field.message_type.full_name}: name one of its fields")
    if field.type == FieldDescriptor.TYPE_BOOL:
        if value not in ("true", "false"):
            raise refused(name, f"is {shown(value)}: want true or false")
        return value == "true"
    if field.enum_type is not None and re.fullmatch(r"-?[0-9]{1,10}", value):
        return int(value)
    return value


def message_of(kind: type[Message], content: dict[str, Any]) -> Message:
    """The message that a JSON object stands for; raises Failure INVALID_ARGUMENT."""
    message = kind()
    try:
        json_format.ParseDict(content, message, max_recursion_depth=DEPTH_MAX + 1)
    except (ValueError, TypeError, RecursionError, json_format.Error) as error:
        raise unparsed(kind, str(error)) from error
    return message


def unparsed(kind: type[Message], told: str) -> Failure:
    """What json_format says, as a failure that names the field."""
    unknown = UNKNOWN.search(told)
    if unknown:
        _, _, inside = unknown.group(2).partition(".")
        path = f"{inside}.{unknown.group(1)}" if inside else unknown.group(1)
        return refused(path, f"is not a field of {kind.DESCRIPTOR.full_name}")
    steps: list[str] = []
    why = told
    while named := UNPARSED.match(why):
        steps.append(snake(named.group(1)))
        why = named.group(2).strip()
    if steps:
        field, why = ".".join(steps), why.rstrip(".")
        if named := NO_ENUM.match(why):
            values = ", ".join(enum_values(kind.DESCRIPTOR, field))
            return refused(field, f"is {shown(named.group(1))}: want {values}, or nothing")
        return refused(field, f"has a value of the wrong form: {why[:160]}")
    return refused("body", f"is no {kind.DESCRIPTOR.full_name}: {told.splitlines()[0][:200]}")


def enum_values(descriptor: Any, path: str) -> Iterator[str]:
    """The names that the enum field at a path takes, without the one for nothing said."""
    field = None
    for step in re.sub(r"\[[^\]]*\]", "", path).split("."):
        field = descriptor.fields_by_name.get(step) if descriptor is not None else None
        descriptor = field.message_type if field is not None else None
    if field is not None and field.enum_type is not None:
        yield from (value.name for value in field.enum_type.values if value.number)


def snake(path: str) -> str:
    """`limits.memoryBytes` → `limits.memory_bytes`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "_" + found.group(1).lower(), path)


def to_json(message: Message) -> dict[str, Any]:
    """A message as JSON with the contract's own field names; empty fields show too."""
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
