"""What a contract message says as a JSON document: `MessageToDict`, at a third of its cost.

1. The very document that `MessageToDict` with the contract's own field names gives. Types whose
   JSON has a form of its own (maps, `Struct`, 32-bit floats) are left to it.
"""

import math
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

__all__ = ["said"]

Form = Callable[[Any], Any]
WIDE = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def said(message: Message) -> dict[str, Any]:
    """The document of a message."""
    forms = forms_of(message.DESCRIPTOR)
    if forms is None:
        return MessageToDict(message, preserving_proto_field_name=True)
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        name, form = forms[field.number]
        found[name] = value if form is None else form(value)
    return found


@cache
def forms_of(descriptor: Descriptor) -> Mapping[int, tuple[str, Form | None]] | None:
    """How each field is said, by its number; None for a type that is left to `MessageToDict`."""
    if descriptor.file.package.startswith("google.protobuf"):
        return None
    found: dict[int, tuple[str, Form | None]] = {}
    for field in descriptor.fields:
        if field.cpp_type == field.CPPTYPE_FLOAT or (
            field.message_type is not None and field.message_type.GetOptions().map_entry
        ):
            return None
        form = form_of(field)
        if field.is_repeated:
            form = list if form is None else each(form)
        found[field.number] = field.name, form
    return found


def form_of(field: FieldDescriptor) -> Form | None:
    """How one value of a field is said; None for as it is."""
    if field.message_type is not None:
        return said
    if field.enum_type is not None:
        return named(field.enum_type)
    if field.type == field.TYPE_BYTES:
        return based
    if field.cpp_type == field.CPPTYPE_DOUBLE:
        return finite
    if field.cpp_type in WIDE:
        return str
    return None


def each(form: Form) -> Form:
    """The same of every value of a list."""
    return lambda values: [form(one) for one in values]


def named(kind: EnumDescriptor) -> Form:
    """The name of a value; a value without a name as its number."""
    names = {number: value.name for number, value in kind.values_by_number.items()}
    return lambda number: names.get(number, number)


def based(data: bytes) -> str:
    """Bytes as text."""
    return b64encode(data).decode("ascii")


def finite(value: float) -> float | str:
    """A number, or the word that stands for what JSON has no number for."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
