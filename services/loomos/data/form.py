"""Holds payloads against schemas.

1. Patterns run on an engine whose time is linear in the text, so no pattern can blow up.
2. What is told of a violation names its path and its rule, never a value: it may be personal.
"""

import json
from functools import lru_cache
from typing import Any

import jsonschema_rs

from loom.decider import Code, Rejected
from loomos.data.state import Schema

__all__ = ["compiled", "hold"]

PATTERN_BYTES_MAX = 256 * 1024
"""Of a compiled pattern."""
TOLD_MAX = 5


def hold(payload: Any, schema: Schema, name: str, field: str) -> None:
    """Raise Rejected, naming path and rule, unless the payload is as the schema says."""
    validator = compiled(schema.text)
    if validator.is_valid(payload):
        return
    errors = sorted(
        (where(field, error.instance_path), rule(error), error.message)
        for error in validator.iter_errors(payload)
    )
    told = "; ".join(f"{path}: {message} ({broken})" for path, broken, message in errors[:TOLD_MAX])
    more = f"; and {len(errors) - TOLD_MAX} more" if len(errors) > TOLD_MAX else ""
    raise Rejected(Code.INVALID_ARGUMENT, f"{told}{more}: see schema {name}", errors[0][0])


@lru_cache(maxsize=1024)
def compiled(text: str) -> jsonschema_rs.Draft202012Validator:
    """The validator of a schema; raises jsonschema_rs.ValidationError for what is no schema."""
    return jsonschema_rs.Draft202012Validator(
        json.loads(text),
        validate_formats=True,
        mask="the value",
        retriever=refused,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=PATTERN_BYTES_MAX),
    )


def refused(uri: str) -> Any:
    """No schema is fetched from anywhere."""
    raise ValueError(f"{uri} lies outside the schema")


def where(field: str, path: list[str | int]) -> str:
    """A path inside the payload, behind the payload's own field."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return f"{field}{''.join(steps)}"[:200]


def rule(error: Any) -> str:
    """The keyword that does not hold."""
    return str(error.schema_path[-1]) if error.schema_path else "schema"
