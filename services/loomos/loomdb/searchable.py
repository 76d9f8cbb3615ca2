"""JSON as jsonb takes it: what it refuses is replaced; pure."""

import json
import math
from typing import Any

__all__ = ["safe_text", "searchable"]

DIGITS_MAX = 4000
"""Of a whole number: Python would write no more, and Postgres could not compare it with many."""
NUL = "\\u0000"
"""How JSON writes the one character that Postgres has no text with."""
# Made once: an encoder costs as much as a short text. jsonb has an order of its own.
written = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def searchable(value: Any) -> str:
    """JSON that jsonb takes: no NUL, no half of a character, no number without end."""
    try:
        text = written(value)
        text.encode()
    except ValueError:
        text = NUL
    if NUL in text:
        return written(safe(value))
    return text


def safe(value: Any) -> Any:
    """The value with what jsonb refuses replaced."""
    match value:
        case str():
            return safe_text(value)
        case dict():
            return {safe_text(name): safe(one) for name, one in value.items()}
        case list():
            return [safe(one) for one in value]
        case float() if not math.isfinite(value):
            return None
        case int() if abs(value) >= 10**DIGITS_MAX:
            return None
        case _:
            return value


def safe_text(text: str) -> str:
    """The text with a replacement character for each NUL and each half of a pair."""
    return "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)
