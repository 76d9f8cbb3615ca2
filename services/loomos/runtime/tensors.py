"""Tensors of the Open Inference Protocol: from a request's bytes or numbers to arrays, and back.

1. Every input is hostile: name, element type, shape, size and finiteness are checked against the
   model's own description before a worker sees anything; an error names the field and the value.
2. Shape and size are checked before the elements are touched.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from loom.kit.errors import Failure, shown
from loomos.runtime.plugins import DTYPES, TensorSpec

__all__ = ["Given", "arrays_of", "bad", "field_of"]

ROWS_MAX = 65_536
RANK_MAX = 8


class Given(NamedTuple):
    """An input as a request gives it; one of `raw` and `values` is there."""

    name: str
    datatype: str
    shape: Sequence[int]
    raw: bytes | memoryview | None = None
    values: Any = None
    """Numbers, flat or nested."""


def arrays_of(given: Sequence[Given], specs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """The inputs as arrays that fit the model's description; raises Failure."""
    wanted = {spec.name: spec for spec in specs}
    arrays: dict[str, np.ndarray] = {}
    rows = -1
    for index, one in enumerate(given):
        field = f"inputs[{index}]"
        spec = wanted.get(one.name)
        if spec is None:
            raise bad(f"{field}.name", f"{shown(one.name)}: the model takes {sorted(wanted)}")
        if one.name in arrays:
            raise bad(f"{field}.name", f"{shown(one.name)} is given twice")
        if one.datatype != spec.datatype:
            raise bad(f"{field}.datatype", f"{shown(one.datatype)}: want {spec.datatype}")
        shape = fitting(one.shape, spec, field)
        if rows not in (-1, shape[0]):
            raise bad(f"{field}.shape", f"{shape[0]} rows where the inputs before have {rows}")
        rows = shape[0]
        array = (
            from_raw(one.raw, spec.datatype, shape, field)
            if one.raw is not None
            else from_values(one.values, spec.datatype, shape, field)
        )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise bad(f"{field}.data", "has an element that is NaN or infinite: want finite ones")
        arrays[one.name] = array
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise bad("inputs", f"lack {missing}: the model takes {sorted(wanted)}")
    return arrays


def fitting(shape: Sequence[int], spec: TensorSpec, field: str) -> tuple[int, ...]:
    """The shape, if the model takes it."""
    told = shown(list(shape[:RANK_MAX]))
    if len(shape) != len(spec.shape):
        raise bad(f"{field}.shape", f"{told}: want {list(spec.shape)}, where -1 is any")
    for size, want in zip(shape, spec.shape, strict=True):
        if size < 1 or want not in (-1, size):
            raise bad(f"{field}.shape", f"{told}: want {list(spec.shape)}, where -1 is 1 or more")
    if shape[0] > ROWS_MAX:
        raise bad(f"{field}.shape", f"{shape[0]} rows: at most {ROWS_MAX} in one request")
    return tuple(shape)


def from_raw(
    raw: bytes | memoryview, datatype: str, shape: tuple[int, ...], field: str
) -> np.ndarray:
    """Little-endian, row-major bytes."""
    dtype = DTYPES[datatype]
    size = math.prod(shape) * dtype.itemsize
    if len(raw) != size:
        raise bad(f"{field}.data", f"{len(raw)} bytes: {list(shape)} of {datatype} has {size}")
    if datatype == "BOOL" and np.frombuffer(raw, np.uint8).max(initial=0) > 1:
        raise bad(f"{field}.data", "has a byte above 1: BOOL is 0 or 1")
    return np.frombuffer(raw, dtype).reshape(shape)


def from_values(values: Any, datatype: str, shape: tuple[int, ...], field: str) -> np.ndarray:
    """Numbers, flat or nested like the shape, none rounded into another kind."""
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise bad(f"{field}.data", "is ragged: want numbers, flat or nested like shape") from error
    dtype = DTYPES[datatype]
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}[dtype.kind]
    if array.dtype.kind not in kinds:
        raise bad(f"{field}.data", f"holds {array.dtype} elements: want {datatype}")
    if array.shape != shape and (array.ndim != 1 or array.size != math.prod(shape)):
        raise bad(f"{field}.data", f"has shape {shown(list(array.shape))}: want {list(shape)}")
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise bad(f"{field}.data", f"has a number outside {datatype}")
    with np.errstate(over="ignore"):
        return array.astype(dtype).reshape(shape)


def bad(field: str, what: str) -> Failure:
    """An error about one field of an inference request."""
    return Failure("INVALID_ARGUMENT", f"{field}: {what}", field)


def field_of(value: Any, kind: type, field: str) -> Any:
    """A part of a JSON request, if it is of this kind."""
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise bad(field, f"{shown(value)}: want {kind.__name__}")
    return value
