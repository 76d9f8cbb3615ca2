"""What a user's JSON schema declares personal, as JSON pointers into the payloads it describes.

1. `x-loomos-personal: true` makes personal what stands there and all that is below it.
2. A schema that refers to itself is personal from the place on where it does, if it is anywhere.
"""

from collections.abc import Mapping
from typing import Any

from loom.personal import escaped, unescaped

__all__ = ["KEYWORD", "pointers"]

KEYWORD = "x-loomos-personal"
"""In a user's JSON schema: what stands here is personal, and all that is below it."""
NESTED = ("allOf", "anyOf", "oneOf")
POINTERS_MAX = 1000


def pointers(schema: Any) -> tuple[str, ...]:
    """The personal places that a JSON schema declares, as pointers with `*` for any name."""
    found: set[str] = set()
    descend(schema, schema, "", (), found)
    if len(found) > POINTERS_MAX:
        return ("",)
    # What is below a personal place is sealed with it.
    return tuple(sorted(one for one in found if not covered(one, found)))


def covered(pointer: str, among: set[str]) -> bool:
    """True where a place above this one is personal already."""
    steps = pointer.split("/")
    return any("/".join(steps[:size]) in among for size in range(1, len(steps)))


def descend(schema: Any, root: Any, path: str, above: tuple[int, ...], found: set[str]) -> None:
    """Add the personal places of a part of a schema."""
    if not isinstance(schema, Mapping) or len(found) > POINTERS_MAX:
        return
    if schema.get(KEYWORD) is True:
        found.add(path)
        return
    if id(schema) in above:
        if mentions(schema):
            found.add(path)
        return
    above = (*above, id(schema))
    target = referred(schema.get("$ref"), root)
    if target is not None:
        descend(target, root, path, above, found)
    for word in NESTED:
        for one in listed(schema.get(word)):
            descend(one, root, path, above, found)
    for word in ("if", "then", "else"):
        descend(schema.get(word), root, path, above, found)
    properties = schema.get("properties")
    if isinstance(properties, Mapping):
        for name in sorted(properties):
            descend(properties[name], root, f"{path}/{escaped(name)}", above, found)
    patterns = schema.get("patternProperties")
    for one in patterns.values() if isinstance(patterns, Mapping) else ():
        descend(one, root, f"{path}/*", above, found)
    for word in ("additionalProperties", "unevaluatedProperties", "items", "contains"):
        descend(schema.get(word), root, f"{path}/*", above, found)
    for index, one in enumerate(listed(schema.get("prefixItems"))):
        descend(one, root, f"{path}/{index}", above, found)


def mentions(schema: Any) -> bool:
    """True where the keyword stands anywhere in a schema's own text."""
    if isinstance(schema, Mapping):
        return schema.get(KEYWORD) is True or any(mentions(one) for one in schema.values())
    return isinstance(schema, list) and any(mentions(one) for one in schema)


def listed(value: Any) -> list[Any]:
    """The value where it is a list, else nothing."""
    return value if isinstance(value, list) else []


def referred(reference: Any, root: Any) -> Any:
    """What a reference inside the same schema leads to, or None."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found = root
    for step in reference[1:].split("/")[1:]:
        name = unescaped(step)
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
