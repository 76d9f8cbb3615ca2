"""Which JSON Schemas are admitted: those whose check costs little whatever is held against them.

1. Every keyword is known here; what is not known is refused by its path, for a validator would
   pass over it in silence. Names that begin with `x-` are notes.
2. References stay inside the schema, at `#/$defs/<name>`, and lead in no circle.
3. What nothing can satisfy is refused where it is plain: bounds that cross, values of a wrong type,
   required fields that may not be there.
"""

from collections.abc import Iterator
from typing import Any, NoReturn

import jsonschema_rs

from loom.decider import Code, Rejected
from loomos.data.form import compiled

__all__ = ["admit"]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
DEPTH_MAX = 16
NODES_MAX = 2000
"""Of subschemas, those behind references counted at each place that refers to them."""
ALTERNATIVES_MAX = 64
ENUM_MAX = 1000
PATTERN_CHARACTERS_MAX = 256
TYPES = frozenset(("array", "boolean", "integer", "null", "number", "object", "string"))
FORMATS = frozenset(
    ("date", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "time", "uri", "uuid")
)
PLAIN = frozenset(
    (
        "$comment", "$defs", "$schema", "const", "default", "dependentRequired", "deprecated",
        "description", "enum", "examples", "exclusiveMaximum", "exclusiveMinimum", "format",
        "maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains",
        "minItems", "minLength", "minProperties", "minimum", "multipleOf", "pattern", "readOnly",
        "required", "title", "type", "uniqueItems", "writeOnly", "$ref",
    )
)  # fmt: skip
ONE = frozenset(
    ("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
)
MANY = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
NAMED = frozenset(("patternProperties", "properties"))
ALTERNATIVES = frozenset(("allOf", "anyOf", "else", "if", "not", "oneOf", "then"))
PAIRS = (
    ("minLength", "maxLength"), ("minItems", "maxItems"),
    ("minProperties", "maxProperties"), ("minContains", "maxContains"),
)  # fmt: skip


def admit(schema: Any, text: str) -> None:
    """Raise Rejected, naming the path, unless the schema is admitted; `text` is its own text."""
    if not isinstance(schema, dict) or schema.get("type") != "object":
        refuse("schema", 'must be an object schema: say "type": "object"')
    if schema.get("$schema", DRAFT) != DRAFT:
        refuse("schema.$schema", f"is {schema['$schema']!r}: want {DRAFT}")
    definitions = schema.get("$defs", {})
    if not isinstance(definitions, dict):
        refuse("schema.$defs", "must be an object")
    for name in sorted(definitions):
        walk(definitions[name], f"schema.$defs.{name}", 1)
    walk(schema, "schema", 0)
    sizes: dict[str, tuple[int, int]] = {}
    nodes, alternatives = size(schema, definitions, sizes, ())
    if nodes > NODES_MAX or alternatives > ALTERNATIVES_MAX:
        refuse(
            "schema",
            f"spreads to {nodes} parts, {alternatives} of them alternatives: at most {NODES_MAX} "
            f"and {ALTERNATIVES_MAX} are allowed",
        )
    try:
        compiled(text)
    except jsonschema_rs.ValidationError as error:
        told = str(error.message)[:300]
        path = "".join(f".{step}" for step in error.instance_path)
        raise Rejected(
            Code.INVALID_ARGUMENT, f"schema{path}: {told} (patterns: RE2's syntax)", f"schema{path}"
        ) from error


def refuse(path: str, why: str) -> NoReturn:
    """Say where a schema is not admitted, and why."""
    raise Rejected(Code.INVALID_ARGUMENT, f"{path[:200]}: {why}", path[:200])


def parts(schema: dict[str, Any], path: str) -> Iterator[tuple[str, Any, str]]:
    """The subschemas right inside one, each with its keyword and its path."""
    for key in sorted(schema):
        value = schema[key]
        if key in ONE:
            yield key, value, f"{path}.{key}"
        elif key in MANY:
            if not isinstance(value, list) or not value:
                refuse(f"{path}.{key}", "must be a list of schemas")
            for index, one in enumerate(value):
                yield key, one, f"{path}.{key}[{index}]"
        elif key in NAMED:
            if not isinstance(value, dict):
                refuse(f"{path}.{key}", "must be an object of schemas")
            for name in sorted(value):
                yield key, value[name], f"{path}.{key}.{name}"


def walk(schema: Any, path: str, depth: int) -> None:
    """Check one subschema and those inside it, references not followed."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        refuse(path, "is no schema: want an object, true or false")
    if depth > DEPTH_MAX:
        refuse(path, f"is nested deeper than {DEPTH_MAX}")
    for key in sorted(schema):
        if key not in PLAIN | ONE | MANY | NAMED and not key.startswith("x-"):
            refuse(f"{path}.{key}", "is no keyword that is checked here: leave it out")
        if key == "$defs" and depth:
            refuse(f"{path}.$defs", "stands at the top only")
    satisfiable(schema, path)
    for _, one, below in parts(schema, path):
        walk(one, below, depth + 1)


def size(
    schema: Any,
    definitions: dict[str, Any],
    sizes: dict[str, tuple[int, int]],
    above: tuple[str, ...],
) -> tuple[int, int]:
    """Subschemas and alternatives with references followed; refuses circles."""
    if isinstance(schema, bool):
        return 1, 0
    nodes, alternatives = 1, 0
    if "$ref" in schema:
        reference = schema["$ref"]
        name = reference.removeprefix("#/$defs/") if isinstance(reference, str) else ""
        if not name or name == reference or name not in definitions:
            refuse("schema", f"$ref {str(reference)[:80]!r} leads nowhere: want #/$defs/<name>")
        if name in above:
            refuse(f"schema.$defs.{name}", "refers to itself: a schema may not recurse")
        if name not in sizes:
            sizes[name] = size(definitions[name], definitions, sizes, (*above, name))
        nodes, alternatives = nodes + sizes[name][0], alternatives + sizes[name][1]
    for key, one, _ in parts(schema, ""):
        inner_nodes, inner_alternatives = size(one, definitions, sizes, above)
        nodes += inner_nodes
        alternatives += inner_alternatives + (key in ALTERNATIVES)
    return nodes, alternatives


def satisfiable(schema: dict[str, Any], path: str) -> None:
    """Refuse what nothing can satisfy, and what is plainly no rule."""
    types = schema.get("type", sorted(TYPES))
    types = [types] if isinstance(types, str) else types
    if not isinstance(types, list) or not types or not all(one in TYPES for one in types):
        refuse(f"{path}.type", f"is {str(schema['type'])[:80]!r}: want {', '.join(sorted(TYPES))}")
    for low, high in PAIRS:
        least, most = schema.get(low), schema.get(high)
        if isinstance(least, int | float) and isinstance(most, int | float) and least > most:
            refuse(path, f"contradicts itself: {low} {least} is above {high} {most}")
    between(schema, path)
    none_fits = any(one is False for one in parts_of(schema, "allOf"))
    for name in ("anyOf", "oneOf"):
        none_fits |= name in schema and all(one is False for one in parts_of(schema, name))
    if none_fits or schema.get("not") is True or schema.get("not") == {}:
        refuse(path, "contradicts itself: nothing fits what allOf, anyOf, oneOf or not ask for")
    shared = wide(types)
    for one in parts_of(schema, "allOf"):
        given = one.get("type", types) if isinstance(one, dict) else types
        shared &= wide(given if isinstance(given, list) else [given])
    if not shared:
        refuse(path, "contradicts itself: no value is of all types that allOf asks for")
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        if not isinstance(values, list) or not 0 < len(values) <= ENUM_MAX:
            refuse(f"{path}.enum", f"must list 1 to {ENUM_MAX} values")
        if not any(fits(one, types) for one in values):
            refuse(path, f"contradicts itself: no listed value is of type {' or '.join(types)}")
    pattern = schema.get("pattern", "")
    if not isinstance(pattern, str) or len(pattern) > PATTERN_CHARACTERS_MAX:
        refuse(f"{path}.pattern", f"must be text, at most {PATTERN_CHARACTERS_MAX} characters")
    if "format" in schema and schema["format"] not in FORMATS:
        refuse(f"{path}.format", f"is not one of {', '.join(sorted(FORMATS))}")
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(one, str) for one in required):
        refuse(f"{path}.required", "must be a list of names")
    for name in required:
        never = isinstance(properties, dict) and properties.get(name) is False
        closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
        if never or (closed and name not in properties):
            refuse(path, f"contradicts itself: {name!r} is required and may not be there")


def between(schema: dict[str, Any], path: str) -> None:
    """Refuse bounds, exclusive ones among them, that no number lies between."""
    low = [
        (schema[name], name) for name in ("minimum", "exclusiveMinimum") if numeric(schema, name)
    ]
    high = [
        (schema[name], name) for name in ("maximum", "exclusiveMaximum") if numeric(schema, name)
    ]
    for least, lower in low:
        for most, upper in high:
            open_end = lower.startswith("ex") or upper.startswith("ex")
            if least > most or (open_end and least == most):
                refuse(path, f"contradicts itself: {lower} {least} is not below {upper} {most}")


def numeric(schema: dict[str, Any], name: str) -> bool:
    """Whether a keyword has a number."""
    return isinstance(schema.get(name), int | float)


def parts_of(schema: dict[str, Any], name: str) -> list[Any]:
    """The subschemas of a keyword that has a list of them."""
    found = schema.get(name, [])
    return found if isinstance(found, list) else []


def wide(types: list[Any]) -> set[Any]:
    """Types with those that they include: a number may be an integer."""
    found = {one for one in types if isinstance(one, str)}
    return found | {"integer"} if "number" in found else found


def fits(value: Any, types: list[str]) -> bool:
    """Whether a value is of one of these JSON types."""
    match value:
        case bool():
            return "boolean" in types
        case None:
            return "null" in types
        case int():
            return "integer" in types or "number" in types
        case float():
            return "number" in types or ("integer" in types and value.is_integer())
        case str():
            return "string" in types
        case list():
            return "array" in types
        case _:
            return "object" in types
