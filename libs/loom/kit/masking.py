"""Leaves personal values out of the words of a refusal, which log and caller both get."""

import json
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from loom import personal

__all__ = ["masked"]

MASKED = "[personal]"


def masked(text: str, request: Message) -> str:
    """The words of a refusal without the personal values of the command that it refuses."""
    if not personal.has_any(request.DESCRIPTOR):
        return text
    for value in sorted(values_of(request), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", spared, text)
    return text


def spared(found: re.Match[str]) -> str:
    """The mask, but not inside a version or an address: a number alone says nothing of those."""
    before, after = found.string[: found.start()], found.string[found.end() :]
    dotted = re.search(r"\d\.$", before) or re.match(r"\.\d", after)
    return found[0] if found[0].isdecimal() and dotted else MASKED


def values_of(request: Message) -> set[str]:
    """What must not stand in the words of a refusal."""
    found: set[str] = set()
    for place in personal.places(request):
        value = getattr(place.message, place.field)
        if isinstance(value, Message):
            value = json_format.MessageToJson(value)
        if place.pointers is None:
            found.add(as_text(value))
        elif place.subject or place.pointers:
            try:
                found.update(leaves(json.loads(value)))
            except (ValueError, RecursionError):
                found.add(as_text(value))
    return {value for value in found if value}


def leaves(document: Any) -> Iterator[str]:
    """The text and the numbers of a JSON document, as a message would show them."""
    if isinstance(document, dict):
        for one in document.values():
            yield from leaves(one)
    elif isinstance(document, list):
        for one in document:
            yield from leaves(one)
    elif isinstance(document, str):
        yield document
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield str(document)
        if float(document).is_integer():
            yield str(int(document))


def as_text(value: Any) -> str:
    """A field's value as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
