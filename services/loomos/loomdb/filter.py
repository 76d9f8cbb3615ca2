"""Which events a reader means: a tree of conditions, checked once and then asked of each event.

1. Bounded: 8 filters deep, 64 conditions, 256 filters; values are compared and never matched by
   patterns, so what a filter costs is known before it runs.
2. Pure and total: a value that is absent or of another kind fits no condition; nothing raises.
3. One meaning for all readers: subscriptions and feeds ask the predicate, a search may turn the
   same checked tree into SQL.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Value

from loom.decider import Rejected
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.filter_text import PATH, TEXT_MAX, condition_of, refused

__all__ = [
    "PATH",
    "PRIORITIES",
    "ROOTS",
    "Document",
    "Selection",
    "check_path",
    "checked",
    "condition_of",
    "document",
    "own_stream",
    "predicate",
    "selection",
    "values_at",
    "whole_of",
    "without_columns",
]

DEPTH_MAX = 8
CONDITIONS_MAX = 64
FILTERS_MAX = 256
VALUES_MAX = 100
PRIORITIES = ("low", "normal", "high", "critical")
PLAIN = (
    "type",
    "event_id",
    "stream",
    "version",
    "shard",
    "topic",
    "actor",
    "organisation_id",
    "project_id",
    "command_id",
    "correlation_id",
    "causation_id",
    "at_us",
    "priority",
    "tags",
    "classification",
)
ROOTS = (*PLAIN, "context", "security", "payload", "data")
"""What a path may begin with; `data` is another word for `payload`."""
ORDERED = {
    pb.FILTER_OPERATOR_LESS: lambda found, wanted: found < wanted,
    pb.FILTER_OPERATOR_LESS_OR_EQUAL: lambda found, wanted: found <= wanted,
    pb.FILTER_OPERATOR_GREATER: lambda found, wanted: found > wanted,
    pb.FILTER_OPERATOR_GREATER_OR_EQUAL: lambda found, wanted: found >= wanted,
}
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,19})")

Document = Mapping[str, Any]
"""An event as conditions see it; `document` makes it."""
Predicate = Callable[[Document], bool]


def document(
    attributes: Mapping[str, Any], payload: Mapping[str, Any], users: bool, classification: str
) -> Document:
    """An event under the names that conditions use; `payload` is what the audit index holds.

    A user's event has two ids and two names of its stream: the log's, and his own.
    """
    found: dict[str, Any] = {name: attributes.get(name, "") for name in PLAIN}
    if users:
        found["event_id"] = found["event_id"], payload.get("event_id", "")
        found["stream"] = found["stream"], own_stream(payload)
    found |= without_columns(payload, users, classification)
    found["data"] = found["payload"]
    return found


def without_columns(payload: Mapping[str, Any], users: bool, classification: str) -> dict[str, Any]:
    """The part of a document that the audit index has no columns for."""
    told = payload if users else {}
    metadata = told.get("metadata", {})
    return {
        "priority": metadata.get("priority") or "normal",
        "tags": metadata.get("tags", []),
        "classification": classification,
        "context": told.get("context", {}),
        "security": told.get("security", {}),
        "payload": told.get("payload", {}) if users else payload,
    }


def own_stream(payload: Mapping[str, Any]) -> str:
    """A user's stream by his own name: in the log the organisation's stands before it."""
    return str(payload.get("stream_id", "")).partition("/")[2]


class Selection(NamedTuple):
    """What a reader asked for, ready to be asked of events."""

    exact: frozenset[str]
    prefixes: tuple[str, ...]
    holds: Predicate | None
    """The conditions; None where there is none, so that no document need be made."""

    def wants_type(self, name: str) -> bool:
        """Whether events of this type are asked for at all."""
        if not self.exact and not self.prefixes:
            return True
        return name in self.exact or name.startswith(self.prefixes)


def selection(
    types: Iterable[str], where: Sequence[str], tree: pb.Filter, within: str = ""
) -> Selection:
    """What types, textual conditions and a filter mean together; raises Rejected.

    `within` is the path that the field in a refusal begins with.
    """
    prefixes = tuple(name.rstrip("*") for name in types if name.endswith(("*", ".")))
    exact = frozenset(name for name in types if not name.endswith(("*", ".")))
    whole = whole_of(where, tree, within)
    plain = not where and tree == pb.Filter()
    return Selection(exact, prefixes, None if plain else predicate(whole))


def whole_of(where: Sequence[str], tree: pb.Filter, within: str = "") -> pb.Filter:
    """Textual conditions and a filter as one checked filter; raises Rejected naming its field."""
    given = []
    for index, text in enumerate(where):
        try:
            given.append(condition_of(text))
            check_condition(given[-1])
        except Rejected as error:
            raise refused(f"{within}where[{index}]", error.message) from error
    checked(tree, len(given), f"{within}filter")
    return pb.Filter(conditions=given, all_of=[tree])


def checked(tree: pb.Filter, conditions: int = 0, field: str = "filter") -> pb.Filter:
    """The filter, where it is within its bounds; raises Rejected naming what is not.

    `conditions` stand beside it already.
    """
    filters = 0
    waiting = [(1, field, tree)]
    while waiting:
        depth, name, one = waiting.pop()
        filters += 1
        conditions += len(one.conditions)
        if depth > DEPTH_MAX:
            raise refused(field, f"the filter is nested deeper than {DEPTH_MAX}")
        if filters > FILTERS_MAX or conditions > CONDITIONS_MAX:
            told = f"more than {CONDITIONS_MAX} conditions or {FILTERS_MAX} filters"
            raise refused(field, f"the filter has {told}")
        for index, condition in enumerate(one.conditions):
            try:
                check_condition(condition)
            except Rejected as error:
                place = f"{name}.conditions[{index}].{error.field}"
                raise refused(place, error.message) from error
        for word in ("all_of", "any_of", "none_of"):
            for index, inner in enumerate(getattr(one, word)):
                waiting.append((depth + 1, f"{name}.{word}[{index}]", inner))
    return tree


def check_condition(condition: pb.FilterCondition) -> None:
    """Raise Rejected for a condition that means nothing."""
    path, operator, values = condition.path, condition.operator, condition.values
    root = check_path(path, "path")
    if operator == pb.FILTER_OPERATOR_UNSPECIFIED:
        raise refused("operator", f"{path}: say which operator")
    wanted = {pb.FILTER_OPERATOR_EXISTS: (0, 0), pb.FILTER_OPERATOR_IN: (1, VALUES_MAX)}
    least, most = wanted.get(operator, (1, 1))
    if most == 0 and values:
        raise refused("values", f"{path}: EXISTS takes no value, {spoken(values[0])} was given")
    if not least <= len(values) <= most:
        raise refused("values", f"{path}: {len(values)} values, want {least} to {most}")
    for value in values:
        if value.WhichOneof("kind") not in ("string_value", "number_value", "bool_value"):
            raise refused("values", f"{path}: want texts, numbers or truth values")
        if len(value.string_value) > TEXT_MAX:
            raise refused("values", f"{path}: a text of more than {TEXT_MAX} characters")
    if operator == pb.FILTER_OPERATOR_PREFIX and not values[0].HasField("string_value"):
        told = f"a prefix is a text, {spoken(values[0])} is none: put it in double quotes"
        raise refused("values", f"{path}: {told}")
    ranked = root == "priority" and operator in ORDERED
    if ranked and values[0].string_value not in PRIORITIES:
        raise refused("values", f"priority: want one of {', '.join(PRIORITIES)}")


def check_path(path: str, field: str) -> str:
    """What a path begins with; raise Rejected where it leads nowhere."""
    root, _, rest = path.partition(".")
    if not re.fullmatch(PATH, path) or root not in ROOTS:
        raise refused(field, f"no path {path[:80]!r}: begin with one of {', '.join(ROOTS)}")
    if (root in PLAIN) == bool(rest):
        told = "has no parts" if rest else f"stands for many values: say {root}.NAME"
        raise refused(field, f"{path[:80]!r}: {root} {told}")
    return root


def spoken(value: Value) -> str:
    """A value as a refusal shows it."""
    return json.dumps(json_format.MessageToDict(value), ensure_ascii=False)[:80]


def predicate(tree: pb.Filter) -> Predicate:
    """The checked filter as one function."""
    conditions = [asks(one) for one in tree.conditions]
    every = [*conditions, *(predicate(one) for one in tree.all_of)]
    some = [predicate(one) for one in tree.any_of]
    none = [predicate(one) for one in tree.none_of]

    def holds(event: Document) -> bool:
        return (
            all(one(event) for one in every)
            and (not some or any(one(event) for one in some))
            and not any(one(event) for one in none)
        )

    return holds


def asks(condition: pb.FilterCondition) -> Predicate:
    """One checked condition as a function."""
    steps, operator = condition.path.split("."), condition.operator
    wanted = [json_format.MessageToDict(value) for value in condition.values]
    first = wanted[0] if wanted else None
    if operator == pb.FILTER_OPERATOR_EXISTS:
        return lambda event: any(True for _ in values_at(event, steps))
    if operator == pb.FILTER_OPERATOR_CONTAINS:
        return lambda event: any(contains(found, first) for found in values_at(event, steps))
    if operator == pb.FILTER_OPERATOR_PREFIX:
        return lambda event: any(
            isinstance(found, str) and found.startswith(str(first))
            for found in elements_at(event, steps)
        )
    if operator in (pb.FILTER_OPERATOR_EQUAL, pb.FILTER_OPERATOR_IN):
        return lambda event: any(
            equal(found, one) for found in elements_at(event, steps) for one in wanted
        )
    if operator == pb.FILTER_OPERATOR_NOT_EQUAL:
        return lambda event: differs(list(elements_at(event, steps)), first)
    compare, ranked = ORDERED[operator], steps == ["priority"]

    def ordered(event: Document) -> bool:
        for found in elements_at(event, steps):
            pair = ranks(found, first) if ranked else comparable(found, first)
            if pair is not None and compare(*pair):
                return True
        return False

    return ordered


def values_at(value: Any, steps: Sequence[str]) -> Iterator[Any]:
    """What stands at a path; an element of a list is entered as if it stood alone."""
    if not steps:
        yield value
    elif isinstance(value, Mapping):
        if steps[0] in value:
            yield from values_at(value[steps[0]], steps[1:])
    elif isinstance(value, list):
        for one in value:
            if isinstance(one, Mapping):
                yield from values_at(one, steps)


def elements_at(event: Document, steps: Sequence[str]) -> Iterator[Any]:
    """What stands at a path, lists as their elements."""
    for found in values_at(event, steps):
        if isinstance(found, list | tuple):
            yield from found
        else:
            yield found


def differs(found: list[Any], wanted: Any) -> bool:
    """Whether there is something, and nothing of it is the value."""
    return bool(found) and not any(equal(one, wanted) for one in found)


def contains(found: Any, wanted: Any) -> bool:
    """Whether a list, a text, one of several names or an object holds the value."""
    if isinstance(found, tuple):
        return any(contains(one, wanted) for one in found)
    if isinstance(found, list):
        return any(equal(one, wanted) for one in found)
    if isinstance(wanted, str):
        return isinstance(found, str | Mapping) and wanted in found
    return False


def equal(found: Any, wanted: Any) -> bool:
    """Whether two values are the same; a truth value is no number."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    pair = comparable(found, wanted)
    return pair is not None and pair[0] == pair[1]


def comparable(found: Any, wanted: Any) -> tuple[Any, Any] | None:
    """Both values where they can be ordered: two texts or two numbers."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return None
    if isinstance(found, str) and isinstance(wanted, str):
        return found, wanted
    if isinstance(wanted, int | float):
        if isinstance(found, int | float):
            return found, wanted
        # JSON of a contract carries 64-bit integers as text.
        if isinstance(found, str) and NUMBER.fullmatch(found):
            return int(found), wanted
    return None


def ranks(found: Any, wanted: Any) -> tuple[int, int] | None:
    """Two priorities by their rank."""
    if found in PRIORITIES and wanted in PRIORITIES:
        return PRIORITIES.index(found), PRIORITIES.index(wanted)
    return None
