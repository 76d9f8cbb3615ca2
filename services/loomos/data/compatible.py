"""Whether one schema reads what another one writes, and which path breaks where it does not.

1. The answer errs on the safe side: what cannot be compared (conditions, alternatives that differ)
   counts as broken. One thing is taken for granted: a field that a schema does not name was not
   written, unless the schema describes its additional fields.
2. Pure, and ends for every admitted schema: those refer to nothing that refers back.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from loom.v1 import data_pb2 as pb

__all__ = ["lifted", "unreadable"]

TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
COMPARED_AS_ONE = (
    "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "patternProperties", "propertyNames",
    "dependentRequired", "contains", "minContains", "maxContains", "prefixItems",
)  # fmt: skip
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
SAME = ("pattern", "format")


def unreadable(reader: Any, writer: Any) -> list[str]:
    """What the reader would refuse of what the writer may write, as `path: why`."""
    return list(broken(reader, writer, reader, writer, "payload"))


def broken(reader: Any, writer: Any, readers: Any, writers: Any, path: str) -> Iterator[str]:
    """The breaks at a path; `readers` and `writers` are the roots that references look into."""
    reader, writer = resolved(reader, readers), resolved(writer, writers)
    if reader is True or reader == {} or writer is False:
        return
    if reader is False:
        yield f"{path}: may not stand there any more"
        return
    writer = {} if writer is True else writer
    can, wants = kinds(writer), kinds(reader)
    if refused := sorted(can - wants):
        told = f"{' and '.join(refused)} is not read as {' or '.join(sorted(wants))}"
        yield f"{path}: was {' or '.join(sorted(can))}, {told}"
        return
    yield from values(reader, writer, path)
    yield from limits(reader, writer, path)
    for name in COMPARED_AS_ONE:
        if name in reader and as_text(reader[name]) != as_text(writer.get(name)):
            yield f"{path}: {name} differs, which cannot be compared"
    if "object" in can:
        yield from fields(reader, writer, readers, writers, path)
    if "array" in can and "items" in reader:
        yield from broken(reader["items"], writer.get("items", True), readers, writers, f"{path}[]")


def resolved(schema: Any, root: Any) -> Any:
    """The schema behind a local reference."""
    while isinstance(schema, dict) and "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return schema


def kinds(schema: dict[str, Any]) -> set[str]:
    """The JSON types that a schema allows; a number may be an integer."""
    given = schema.get("type", TYPES)
    found = {given} if isinstance(given, str) else set(given)
    return found | {"integer"} if "number" in found else found


def values(reader: dict[str, Any], writer: dict[str, Any], path: str) -> Iterator[str]:
    """Breaks by `enum` and `const`."""
    wanted, written = listed(reader), listed(writer)
    if wanted is None:
        return
    if written is None:
        yield f"{path}: could be anything, now one of {len(wanted)} values"
        return
    read = {as_text(one) for one in wanted}
    if lost := [as_text(one) for one in written if as_text(one) not in read]:
        yield f"{path}: {', '.join(lost[:5])} is not read any more"


def listed(schema: dict[str, Any]) -> list[Any] | None:
    """The only values that a schema allows, where it lists them."""
    return [schema["const"]] if "const" in schema else schema.get("enum")


def limits(reader: dict[str, Any], writer: dict[str, Any], path: str) -> Iterator[str]:
    """Breaks by bounds, forms and steps."""
    for name in LOWER:
        if name in reader and not (name in writer and writer[name] >= reader[name]):
            yield f"{path}: {name} is {reader[name]}, was {writer.get(name, 'not given')}"
    for name in UPPER:
        if name in reader and not (name in writer and writer[name] <= reader[name]):
            yield f"{path}: {name} is {reader[name]}, was {writer.get(name, 'not given')}"
    for name in SAME:
        if name in reader and writer.get(name) != reader[name]:
            yield f"{path}: {name} is {reader[name]!r}, was {writer.get(name, 'not given')!r}"
    if reader.get("uniqueItems") and not writer.get("uniqueItems"):
        yield f"{path}: items must be unique now"
    step = reader.get("multipleOf")
    if step and not (writer.get("multipleOf") and writer["multipleOf"] % step == 0):
        yield f"{path}: must be a multiple of {step} now"


def fields(
    reader: dict[str, Any], writer: dict[str, Any], readers: Any, writers: Any, path: str
) -> Iterator[str]:
    """Breaks in an object's fields."""
    always = set(writer.get("required", ()))
    for name in sorted(set(reader.get("required", ())) - always):
        yield f"{path}.{name}: is required, was optional or not there"
    wanted, written = reader.get("properties", {}), writer.get("properties", {})
    others = reader.get("additionalProperties", True)
    for name in sorted(written):
        yield from broken(
            wanted.get(name, others), written[name], readers, writers, f"{path}.{name}"
        )
    more = writer.get("additionalProperties")
    if isinstance(more, dict):
        for name in sorted(set(wanted) - set(written)):
            yield from broken(wanted[name], more, readers, writers, f"{path}.{name}")
    if others is not True:
        rest = True if more is None else more
        yield from broken(others, rest, readers, writers, f"{path}.*")


def as_text(value: Any) -> str:
    """A value in a form that compares by content."""
    return json.dumps(value, sort_keys=True)


def lifted(schema: Any, steps: Iterable[pb.UpcastStep]) -> Any:
    """The schema of what a writer wrote after an upcaster's steps."""
    root = json.loads(as_text(schema))
    for step in steps:
        *above, name = step.path.split(".")
        holder = holder_of(root, above)
        match step.action:
            case pb.UPCAST_ACTION_DROP:
                taken(holder, name)
            case pb.UPCAST_ACTION_DEFAULT:
                holder = holder_of(root, above, make=True)
                if holder is not None:
                    own = holder.setdefault("properties", {})
                    if name not in own:
                        own[name] = {"const": json.loads(step.value_json)}
                        own[name]["type"] = kind_of(own[name]["const"])
                    holder["required"] = sorted({*holder.get("required", ()), name})
            case pb.UPCAST_ACTION_RENAME | pb.UPCAST_ACTION_MOVE:
                found = taken(holder, name)
                if found is None:
                    continue
                rename = step.action == pb.UPCAST_ACTION_RENAME
                target = [*above, step.to] if rename else step.to.split(".")
                place = holder_of(root, target[:-1], make=True)
                if place is not None:
                    place.setdefault("properties", {})[target[-1]] = found[0]
                    if found[1]:
                        place["required"] = sorted({*place.get("required", ()), target[-1]})
            case _:
                pass
    return root


def holder_of(root: Any, path: list[str], make: bool = False) -> dict[str, Any] | None:
    """The object schema at a path of fields, made where it is absent and wanted."""
    found = root
    for name in path:
        if not isinstance(found, dict):
            return None
        own = found.setdefault("properties", {}) if make else found.get("properties", {})
        if name not in own:
            if not make:
                return None
            own[name] = {"type": "object"}
            found["required"] = sorted({*found.get("required", ()), name})
        found = resolved(own[name], root)
    return found if isinstance(found, dict) else None


def taken(holder: dict[str, Any] | None, name: str) -> tuple[Any, bool] | None:
    """Take a field out of an object schema: its schema, and whether it was required."""
    if holder is None or name not in holder.get("properties", {}):
        return None
    schema = holder["properties"].pop(name)
    required = name in holder.get("required", ())
    if required:
        holder["required"] = [one for one in holder["required"] if one != name]
    return schema, required


def kind_of(value: Any) -> str:
    """The JSON type of a value."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case None:
            return "null"
        case list():
            return "array"
        case _:
            return "object"
