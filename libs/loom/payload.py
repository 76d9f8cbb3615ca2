"""A user's JSON payload: read strictly, written in one canonical form, brought to a newer schema.

1. What two readers could understand differently is refused: duplicate keys, NaN, lone surrogates,
   U+0000 (no Postgres column takes it), integers beyond 64 bits, depth beyond DEPTH_MAX.
2. Canonical: keys sorted, no spaces, UTF-8, a whole double written as an integer. So equal content
   has equal bytes, whether it came as `google.protobuf.Struct` or as text.
3. Nothing here does I/O; the same input gives the same bytes on every machine.
"""

import json
import math
from collections.abc import Iterable
from typing import Any

from google.protobuf import struct_pb2

from loom.decider import Code, Rejected
from loom.v1 import data_pb2 as pb

__all__ = ["BYTES_MAX", "DEPTH_MAX", "canonical", "normal", "parsed", "plain", "upcast"]

BYTES_MAX = 256 * 1024
DEPTH_MAX = 24
WHOLE_MAX = 2**53
INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1
DIGITS_MAX = 20


def parsed(text: str | bytes, field: str) -> Any:
    """The JSON value of a text, a whole double as an integer; raises Rejected naming `field`."""

    def bad(why: str) -> Rejected:
        return Rejected(Code.INVALID_ARGUMENT, f"{field}: {why}", field)

    try:
        return DECODER.decode(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError as error:
        raise bad(f"is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise bad(f"is nested deeper than {DEPTH_MAX}") from error
    except json.JSONDecodeError as error:
        raise bad(f"is not JSON: {error.msg} at character {error.pos}") from error
    except Ambiguous as error:
        raise bad(str(error)) from error


class Ambiguous(Exception):
    """JSON that two readers could understand differently."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Ambiguous(f"{twice[:80]!r} stands twice in one object")
    return found


def _constant(name: str) -> Any:
    raise Ambiguous(f"holds {name}: numbers must be finite")


def _integer(digits: str) -> int:
    if len(digits) > DIGITS_MAX or not INTEGER_MIN <= int(digits) <= INTEGER_MAX:
        raise Ambiguous(f"holds the integer {digits[:40]}: at most 64 bits")
    return int(digits)


def _double(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise Ambiguous(f"holds the number {digits[:40]}: numbers must be finite")
    return _whole(value)


def _whole(value: float) -> float:
    """An integer where the double is one and says so exactly."""
    return int(value) if value.is_integer() and abs(value) <= WHOLE_MAX else value


DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_constant, parse_int=_integer, parse_float=_double
)
ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)


def plain(value: struct_pb2.Struct, field: str) -> dict[str, Any]:
    """The object that a Struct holds; raises Rejected where a double may have lost digits."""
    return {key: _plain(value.fields[key], f"{field}.{key}", 1) for key in value.fields}


def _plain(value: struct_pb2.Value, path: str, depth: int) -> Any:
    if depth > DEPTH_MAX:
        told = f"{path[:200]}: is nested deeper than {DEPTH_MAX}"
        raise Rejected(Code.INVALID_ARGUMENT, told, path[:200])
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            if number.is_integer() and WHOLE_MAX < abs(number) <= INTEGER_MAX:
                told = f"{path}: {number!r} may have lost digits: send it in payload_json"
                raise Rejected(Code.INVALID_ARGUMENT, told, path)
            return number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            fields = value.struct_value.fields
            return {key: _plain(fields[key], f"{path}.{key}", depth + 1) for key in fields}
        case "list_value":
            items = enumerate(value.list_value.values)
            return [_plain(one, f"{path}[{at}]", depth + 1) for at, one in items]
        case _:
            return None


def canonical(value: Any, field: str) -> bytes:
    """The one form in which a value is stored; raises Rejected naming `field`."""
    return _encoded(_shaped(value, field, 0), field)


def normal(text: str, field: str) -> bytes:
    """The canonical form of a JSON text; raises Rejected naming `field`."""
    value = parsed(text, field)
    shallow = text.count("{") + text.count("[") <= DEPTH_MAX
    if not shallow or "\\u0000" in text:
        value = _shaped(value, field, 0)
    return _encoded(value, field)


def _encoded(value: Any, field: str) -> bytes:
    try:
        return ENCODER.encode(value).encode()
    except UnicodeEncodeError as error:
        told = f"{field}: holds half of a surrogate pair: this is no Unicode text"
        raise Rejected(Code.INVALID_ARGUMENT, told, field) from error


def _shaped(value: Any, path: str, depth: int) -> Any:
    if depth > DEPTH_MAX:
        told = f"{path[:200]}: is nested deeper than {DEPTH_MAX}"
        raise Rejected(Code.INVALID_ARGUMENT, told, path[:200])
    match value:
        case float():
            return _whole(value)
        case str():
            if "\0" in value:
                told = f"{path}: holds U+0000, which no text may"
                raise Rejected(Code.INVALID_ARGUMENT, told, path)
            return value
        case dict():
            if any("\0" in key for key in value):
                told = f"{path}: a name in it holds U+0000, which no text may"
                raise Rejected(Code.INVALID_ARGUMENT, told, path)
            return {key: _shaped(one, f"{path}.{key}", depth + 1) for key, one in value.items()}
        case list():
            return [_shaped(one, f"{path}[{at}]", depth + 1) for at, one in enumerate(value)]
        case _:
            return value


def upcast(payload: dict[str, Any], steps: Iterable[pb.UpcastStep]) -> dict[str, Any]:
    """A payload of one version as the next one has it; changes and returns the one given."""
    for step in steps:
        *above, name = step.path.split(".")
        holder = _at(payload, above)
        match step.action:
            case pb.UPCAST_ACTION_DROP:
                if holder is not None:
                    holder.pop(name, None)
            case pb.UPCAST_ACTION_DEFAULT:
                holder = _at(payload, above, make=True)
                if holder is not None and name not in holder:
                    holder[name] = json.loads(step.value_json)
            case pb.UPCAST_ACTION_RENAME | pb.UPCAST_ACTION_MOVE:
                if holder is None or name not in holder:
                    continue
                target = (
                    [*above, step.to]
                    if step.action == pb.UPCAST_ACTION_RENAME
                    else step.to.split(".")
                )
                place = _at(payload, target[:-1], make=True)
                if place is not None:
                    place[target[-1]] = holder.pop(name)
            case _:
                pass
    return payload


def _at(payload: dict[str, Any], path: list[str], make: bool = False) -> dict[str, Any] | None:
    """The object at a path, made where it is absent and wanted; None where something else is."""
    found: Any = payload
    for name in path:
        if make and name not in found:
            found[name] = {}
        found = found.get(name)
        if not isinstance(found, dict):
            return None
    return found
