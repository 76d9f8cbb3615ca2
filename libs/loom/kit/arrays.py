"""Rows as columns, each a Postgres array in its binary form.

1. A value goes only where its Python type is exactly the column's: nothing is cast here that the
   statement alone would not cast. What does not fit gives None, and its rows go one by one.
2. Binary, because quoting a text costs both sides more than all else about it.
"""

import struct
from collections.abc import Sequence
from itertools import chain
from types import NoneType
from typing import Any

import psycopg
from psycopg.adapt import Dumper, PyFormat, Transformer
from psycopg.pq import Format

__all__ = ["PYTHON", "array_of", "arrays_of"]

PYTHON: dict[str, type] = {
    "text": str,
    "character varying": str,
    "json": str,
    "jsonb": str,
    "smallint": int,
    "integer": int,
    "bigint": int,
    "boolean": bool,
    "double precision": float,
    "bytea": bytes,
}
ELEMENTS = {"text": 25, "character varying": 1043, "json": 114, "jsonb": 3802, "bytea": 17}
"""Postgres' own numbers of the types."""
WHOLE = {
    "smallint": (21, struct.Struct(">Ih")),
    "integer": (23, struct.Struct(">Ii")),
    "bigint": (20, struct.Struct(">Iq")),
}
HEAD = struct.Struct(">IIIII")
"""Dimensions, whether there are NULLs, the elements' type, how many, the first one's index."""
LENGTH = struct.Struct(">I")
JSONB_FORM = b"\x01"
"""Stands before a jsonb value's text."""


class Packed:
    """An array as Postgres receives it."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class PackedDumper(Dumper):
    """The bytes as they are; their type is the statement's to say."""

    format = Format.BINARY
    oid = 0

    def dump(self, obj: Packed) -> bytes:
        """What is sent."""
        return obj.data


psycopg.adapters.register_dumper(Packed, PackedDumper)


def array_of(kind: str) -> str:
    """The type that holds a column of such values: an array in an array goes as its text."""
    return "text[]" if kind.endswith("[]") else f"{kind}[]"


def arrays_of(rows: Sequence[tuple[Any, ...]], types: Sequence[str]) -> list[Any] | None:
    """The rows as columns; None where a value is not exactly of its parameter's type."""
    if set(map(len, rows)) != {len(types)}:
        return None
    columns = []
    for column, kind in zip(zip(*rows, strict=True), types, strict=True):
        array = array_in(column, kind)
        if array is None:
            return None
        columns.append(array)
    return columns


def array_in(column: tuple[Any, ...], kind: str) -> Any:
    """A column as psycopg takes it; None where a value is not exactly of the column's type."""
    found = set(map(type, column))
    if kind.endswith("[]"):
        inner = {type(one) for one in chain.from_iterable(filter(None, column))}
        if not found <= {list, NoneType} or not inner <= {PYTHON[kind[:-2]]}:
            return None
        return [None if one is None else written(one) for one in column]
    if found == {PYTHON[kind]}:
        if kind in ELEMENTS:
            return texts(column, kind)
        if kind in WHOLE:
            return numbers(column, kind)
    return list(column) if found <= {PYTHON[kind], NoneType} else None


def texts(column: Sequence[Any], kind: str) -> Packed:
    """Texts or bytes."""
    first, count = column[0], len(column)
    if column.count(first) == count:
        # Much of what many events say is the same: whose, which topic, which story.
        return whole(ELEMENTS[kind], count, element(first, kind) * count)
    return whole(ELEMENTS[kind], count, b"".join([element(one, kind) for one in column]))


def element(value: Any, kind: str) -> bytes:
    """A text or bytes with its length."""
    data = value.encode() if type(value) is str else value
    if kind == "jsonb":
        data = JSONB_FORM + data
    return LENGTH.pack(len(data)) + data


def numbers(column: Sequence[int], kind: str) -> Packed | None:
    """Whole numbers; None where one is out of the type's range."""
    oid, form = WHOLE[kind]
    size = form.size - LENGTH.size
    pack = form.pack
    try:
        return whole(oid, len(column), b"".join([pack(size, one) for one in column]))
    except struct.error:
        return None


def whole(oid: int, count: int, elements: bytes) -> Packed:
    """An array of one dimension without NULL."""
    return Packed(HEAD.pack(1, 0, oid, count, 1) + elements)


def written(values: list[Any]) -> str:
    """An array as its text."""
    dumped = Transformer().get_dumper(values, PyFormat.TEXT).dump(values)
    assert dumped is not None
    return bytes(dumped).decode()
