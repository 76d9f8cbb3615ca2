"""A checked filter as SQL that finds at least what fits it; values and paths are parameters.

1. No text of a caller becomes SQL: a path goes as the value of a `jsonpath` parameter, each of its
   names quoted in it; columns are those of a table here.
2. What Postgres might see otherwise than `filter.predicate` (other numbers than doubles hold, NUL,
   the order of texts beyond ASCII, negations) is asked for too widely, and `exact` is False: the
   caller then asks the predicate of each row.
3. `keyed` says that an index can find it. All else is asked of rows that an index found, so many
   at most as the caller lets it.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from google.protobuf import json_format

from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.filter import PRIORITIES
from loomos.loomdb.searchable import safe_text

__all__ = ["ALL", "Clause", "Values", "compiled", "jsonpath", "parts", "where"]

TEXTS = (
    "type", "event_id", "stream", "shard", "topic", "actor", "organisation_id", "project_id",
    "command_id", "correlation_id", "causation_id",
)  # fmt: skip
OWN = {"event_id": "own_id", "stream": "own_stream"}
"""A user's own names of his event and of its stream stand in `search`."""
NUMBERS = ("version", "at_us")
COMPARED: dict[int, str] = {
    pb.FILTER_OPERATOR_LESS: "<",
    pb.FILTER_OPERATOR_LESS_OR_EQUAL: "<=",
    pb.FILTER_OPERATOR_GREATER: ">",
    pb.FILTER_OPERATOR_GREATER_OR_EQUAL: ">=",
}
SAME = (pb.FILTER_OPERATOR_EQUAL, pb.FILTER_OPERATOR_IN)
EXACT_MAX = 2**53
"""Up to here a double is the whole number that was meant."""
WHOLE = r"^-?(0|[1-9][0-9]{0,19})$"
"""Texts that stand for numbers: JSON of a contract carries 64-bit integers as text."""
ALONE = '@.type() != "array"'
"""Elements of a list are looked at, elements of its elements are not."""


class Clause(NamedTuple):
    """A condition in SQL."""

    text: str
    keyed: bool = False
    """Whether an index can serve it."""
    exact: bool = True
    """False where it lets more through than the filter does."""


ALL = Clause("TRUE")
MAYBE = Clause("TRUE", exact=False)
NEVER = Clause("FALSE", keyed=True)


class Values:
    """The parameters of one statement."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def add(self, value: Any) -> str:
        """The placeholder that stands for a value."""
        name = f"p{len(self.given)}"
        self.given[name] = value
        return f"%({name})s"


def parts(tree: pb.Filter, values: Values) -> list[Clause]:
    """The clauses that all hold where the filter holds."""
    found = [condition(one, values) for one in tree.conditions]
    for one in tree.all_of:
        found += parts(one, values)
    if tree.any_of:
        found.append(joined("OR", [compiled(one, values) for one in tree.any_of]))
    if tree.none_of:
        found.append(MAYBE)
    return found


def compiled(tree: pb.Filter, values: Values) -> Clause:
    """A filter as one clause."""
    return joined("AND", parts(tree, values))


def joined(word: str, clauses: Sequence[Clause]) -> Clause:
    """Clauses as one."""
    if not clauses:
        return ALL
    keyed = (all if word == "OR" else any)(one.keyed for one in clauses)
    text = f" {word} ".join(one.text for one in clauses)
    return Clause(f"({text})", keyed, all(one.exact for one in clauses))


def condition(one: pb.FilterCondition, values: Values) -> Clause:
    """One condition."""
    wanted = [json_format.MessageToDict(value) for value in one.values]
    if one.path in OWN:
        own = of_json(OWN[one.path], one.operator, wanted, values)
        return joined("OR", [of_text(one.path, one.operator, wanted, values), own])
    if one.path in TEXTS:
        return of_text(one.path, one.operator, wanted, values)
    if one.path in NUMBERS:
        return of_number(one.path, one.operator, wanted, values)
    return of_json(one.path, one.operator, wanted, values)


def of_text(column: str, operator: int, wanted: Sequence[Any], values: Values) -> Clause:
    """A condition on a column of texts."""
    if operator == pb.FILTER_OPERATOR_EXISTS:
        return ALL
    if not all(isinstance(one, str) for one in wanted):
        # A number may be the number that a text stands for.
        return MAYBE
    plain = [safe_text(one) for one in wanted]
    exact = plain == list(wanted)
    if operator in SAME:
        return Clause(f"{column} = ANY({values.add(plain)}::text[])", True, exact)
    if not exact or operator == pb.FILTER_OPERATOR_NOT_EQUAL:
        return MAYBE
    value = values.add(plain[0])
    if operator == pb.FILTER_OPERATOR_PREFIX:
        return Clause(f"starts_with({column}, {value}::text)", True)
    if operator == pb.FILTER_OPERATOR_CONTAINS:
        return Clause(f"strpos({column}, {value}::text) > 0")
    return Clause(f'{column} COLLATE "C" {COMPARED[operator]} {value}::text COLLATE "C"')


def of_number(column: str, operator: int, wanted: Sequence[Any], values: Values) -> Clause:
    """A condition on a column of whole numbers."""
    if operator == pb.FILTER_OPERATOR_EXISTS:
        return ALL
    numbers = [one for one in wanted if isinstance(one, float) and math.isfinite(one)]
    if operator == pb.FILTER_OPERATOR_NOT_EQUAL:
        return MAYBE
    if not numbers or operator in (pb.FILTER_OPERATOR_PREFIX, pb.FILTER_OPERATOR_CONTAINS):
        return NEVER
    exact = all(abs(one) <= EXACT_MAX for one in numbers)
    compared = f"{COMPARED.get(operator, '=')} ANY({values.add(numbers)}::float8[])"
    return Clause(f"{column} {compared}", False, exact)


def of_json(path: str, operator: int, wanted: Sequence[Any], values: Values) -> Clause:
    """A condition on what stands in `search`."""
    steps = path.split(".")
    steps[0] = "payload" if steps[0] == "data" else steps[0]
    if steps == ["priority"] and operator in COMPARED:
        rank = PRIORITIES.index(wanted[0])
        word = COMPARED[operator]
        below, above = PRIORITIES[:rank], PRIORITIES[rank + 1 :]
        kept = [*(below if word[0] == "<" else above), *([wanted[0]] if word[1:] else [])]
        return where(steps, "=", kept, values) if kept else NEVER
    if operator in (pb.FILTER_OPERATOR_EXISTS, pb.FILTER_OPERATOR_NOT_EQUAL):
        return there(steps, operator == pb.FILTER_OPERATOR_EXISTS, values)
    if operator in SAME:
        return where(steps, "=", wanted, values)
    if operator == pb.FILTER_OPERATOR_CONTAINS:
        return holds(steps, wanted[0], values)
    if operator == pb.FILTER_OPERATOR_PREFIX:
        text = safe_text(wanted[0])
        return asked(steps, f"@ starts with {quoted(text)}", text == wanted[0], values)
    return ordered(steps, COMPARED[operator], wanted[0], values)


def where(steps: Sequence[str], word: str, wanted: Iterable[Any], values: Values) -> Clause:
    """Something at the path is one of the values: what the GIN index is for."""
    tests, exact = list[str](), True
    for one in wanted:
        told, sure = literals(one)
        tests += [f"@ {word}{word} {text}" for text in told]
        exact = exact and sure
    if not tests:
        return NEVER
    return asked(steps, " || ".join(tests), exact, values)._replace(keyed=True)


def holds(steps: Sequence[str], wanted: Any, values: Values) -> Clause:
    """A list with the value in it, a text with it in it, or an object with such a name."""
    if steps == ["tags"] or not isinstance(wanted, str):
        # Tags are a list, always; and only a list holds what is no text.
        return where(steps, "=", [wanted], values)._replace(exact=steps == ["tags"])
    text = safe_text(wanted)
    # `q` takes the value as it stands: there is no pattern in it.
    inside = asked(steps, f'@ like_regex {quoted(text)} flag "q"', False, values)
    named = there([*steps, text], False, values)
    found = [inside, named, where(steps, "=", [wanted], values)]
    return joined("OR", found)._replace(keyed=False, exact=False)


def ordered(steps: Sequence[str], word: str, wanted: Any, values: Values) -> Clause:
    """Something at the path stands in this order to the value."""
    if isinstance(wanted, bool):
        return NEVER
    if isinstance(wanted, str):
        if not wanted.isascii() or "\0" in wanted:
            return there(steps, False, values)
        return asked(steps, f"@ {word} {quoted(wanted)}", True, values)
    exact = abs(wanted) <= EXACT_MAX
    # Where a double is coarser than what is compared, its neighbour lets through what might fit.
    bound = wanted if exact else math.nextafter(wanted, -math.inf if word[0] == ">" else math.inf)
    if not math.isfinite(bound):
        return MAYBE
    word = word if exact else f"{word[0]}="
    number = f'@.type() == "number" && @ {word} {bound!r}'
    text = f'@ like_regex "{WHOLE}" && @.number() {word} {bound!r}'
    return asked(steps, f"({number}) || ({text})", exact, values)


def asked(steps: Sequence[str], test: str, exact: bool, values: Values) -> Clause:
    """A test of what stands at a path."""
    path = f"{jsonpath(steps)} ? ({ALONE} && ({test}))"
    return Clause(f"search @? {values.add(path)}::jsonpath", exact=exact)


def there(steps: Sequence[str], exact: bool, values: Values) -> Clause:
    """Something stands at a path."""
    return Clause(f"search @? {values.add(jsonpath(steps))}::jsonpath", exact=exact)


def literals(wanted: Any) -> tuple[list[str], bool]:
    """A value as `jsonpath` writes it, in each form that equals it; whether no other does."""
    if isinstance(wanted, bool):
        return [json.dumps(wanted)], True
    if isinstance(wanted, str):
        text = safe_text(wanted)
        return [quoted(text)], text == wanted
    if not math.isfinite(wanted):
        return [], True
    told = [repr(wanted)]
    if wanted.is_integer():
        whole = str(int(wanted))
        told = [whole] if abs(wanted) <= EXACT_MAX else [*told, whole]
        if len(whole) <= len(str(2**64)):
            told.append(quoted(whole))
    return told, abs(wanted) <= EXACT_MAX


def jsonpath(steps: Sequence[str]) -> str:
    """A path with each of its names quoted."""
    return "$" + "".join(f".{quoted(step)}" for step in steps)


quoted: Callable[[str], str] = json.JSONEncoder(ensure_ascii=False).encode
"""A text as JSON and `jsonpath` write it."""
