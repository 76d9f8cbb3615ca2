"""Conditions as people write them: `payload.accuracy >= 0.8`, `tags contains healthcare`."""

import json
import re
import sys
from typing import Any

from google.protobuf.struct_pb2 import Value

from loom.decider import Code, Rejected
from loom.v1 import loomdb_pb2 as pb

__all__ = ["PATH", "TEXT_MAX", "condition_of", "refused"]

TEXT_MAX = 1024
PATH = r"[A-Za-z_][A-Za-z0-9_-]*(?:[.][A-Za-z0-9_-]+){0,15}"
TEXTUAL = re.compile(
    rf"\s*({PATH})\s*(>=|<=|!=|==|=|>|<|\bin\b|\bcontains\b|\bprefix\b|\bexists\b)\s*(.*?)\s*",
    re.DOTALL,
)
OPERATORS = {
    "=": pb.FILTER_OPERATOR_EQUAL,
    "==": pb.FILTER_OPERATOR_EQUAL,
    "!=": pb.FILTER_OPERATOR_NOT_EQUAL,
    "<": pb.FILTER_OPERATOR_LESS,
    "<=": pb.FILTER_OPERATOR_LESS_OR_EQUAL,
    ">": pb.FILTER_OPERATOR_GREATER,
    ">=": pb.FILTER_OPERATOR_GREATER_OR_EQUAL,
    "in": pb.FILTER_OPERATOR_IN,
    "contains": pb.FILTER_OPERATOR_CONTAINS,
    "prefix": pb.FILTER_OPERATOR_PREFIX,
    "exists": pb.FILTER_OPERATOR_EXISTS,
}


def condition_of(text: str) -> pb.FilterCondition:
    """A condition written as text: `payload.accuracy >= 0.8`; raises Rejected."""
    form = TEXTUAL.fullmatch(text) if len(text) <= TEXT_MAX else None
    if form is None:
        known = " ".join(OPERATORS)
        raise refused("where", f"{text[:80]!r} is no condition: want PATH OPERATOR VALUE, {known}")
    path, word, told = form.groups()
    operator = OPERATORS[word]
    values = [] if operator == pb.FILTER_OPERATOR_EXISTS and not told else values_in(told, word)
    given = [value_of(path, value) for value in values]
    return pb.FilterCondition(path=path, operator=operator, values=given)


def values_in(told: str, word: str) -> list[Any]:
    """The values of a textual condition: JSON, else the text itself; IN takes commas, too."""
    value = plain(told)
    if word != "in":
        return [value]
    if isinstance(value, list):
        return value
    return [plain(part.strip()) for part in told.split(",")] if isinstance(value, str) else [value]


def plain(told: str) -> Any:
    """A value as JSON says it, else as text."""
    try:
        return json.loads(told)
    except (ValueError, RecursionError):
        return told


def value_of(path: str, value: Any) -> Value:
    """A text, number or truth value as the contract carries it; raises Rejected with the path."""
    if isinstance(value, bool):
        return Value(bool_value=value)
    if isinstance(value, int | float) and abs(value) <= sys.float_info.max:
        return Value(number_value=value)
    if isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value):
        return Value(string_value=value)
    # A number of thousands of digits has no text in Python: its kind must do.
    told = type(value).__name__ if isinstance(value, int) else ascii(value)[:80]
    raise refused("where", f"{path}: {told}: want a text, a truth value, or a number up to 1.7e308")


def refused(field: str, message: str) -> Rejected:
    """A filter that cannot be asked."""
    return Rejected(Code.INVALID_ARGUMENT, message, field)
