"""Plans in which groups a batch's statements may run, so that like ones run together.

1. Two statements change places only where they commute whatever the tables hold: they touch
   different tables, or different rows of one table, each named by its whole primary key. All
   others keep their order, and so do those of one text.
2. That is proven from the text and the catalogue, never supposed. A statement proves its table
   where it is a plain INSERT, UPDATE or DELETE that reads no other table and calls no function but
   a few without a memory; its row, where its key is equal to parameters of exact types. A table
   lets statements change places where it has no triggers, foreign keys, rules or defaults that
   count, and rows do so where the primary key is all that is unique in it.
3. What proves nothing is a fence: nothing passes it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from loom.decider import Statement

__all__ = ["Group", "Shape", "Table", "plan", "shape_of"]

MEMORYLESS = frozenset({"coalesce", "nullif", "greatest", "least"})
CLAUSES = frozenset({"values", "conflict", "in", "and", "or", "not", "when", "then", "else", "set"})
LITERAL = re.compile(r"'(?:[^']|'')*'")
# Whatever else can hide text from the patterns below: other quotes, comments, other parameters.
OPAQUE = re.compile(r'["\\$;]|--|/\*|%[^s]|%$')
READS = re.compile(r"\b(select|with|using|from|returning|table|join|only)\b", re.I)
CALLS = re.compile(r"(\w+)\s*\(")
HEAD = re.compile(
    r"\s*(?:(?P<insert>INSERT\s+INTO)\s+(?P<into>\w+)(?:\s*\((?P<columns>[^()]*)\))?\s*VALUES\s*\("
    r"|UPDATE\s+(?P<updated>\w+)\s+SET\s|DELETE\s+FROM\s+(?P<deleted>\w+)\s+WHERE\s)",
    re.I,
)
CONFLICT = re.compile(r"\s*ON\s+CONFLICT\s*\((?P<key>[^()]*)\)\s*DO\s+(NOTHING|UPDATE)\b", re.I)
NO_CONFLICT = re.compile(r"\s*(ON\s+CONFLICT\s*(\([^()]*\)\s*)?DO\s+NOTHING\s*)?", re.I)
WHERE = re.compile(r"\bWHERE\b", re.I)
EQUALITIES = re.compile(r"\s*\w+\s*=\s*%s(\s+AND\s+\w+\s*=\s*%s)*\s*", re.I)
EQUAL = re.compile(r"(\w+)\s*=\s*%s", re.I)
SIMPLE = re.compile(r"%s|-?\d+|'[^']*'|true|false|null", re.I)


class Table(NamedTuple):
    """What the catalogue says of a table."""

    columns: tuple[str, ...]
    apart: bool
    """Whether a statement on it can have no effect elsewhere."""
    key: Mapping[str, type]
    """The primary key's columns, each with the Python type whose equality is the column's; empty
    where rows cannot be told apart by it alone."""


class Shape(NamedTuple):
    """What a statement's text says."""

    table: str
    """The only table that it touches; "" where that is not proven."""
    values: tuple[int, int] | None
    """Where the VALUES of an insert of independent rows stand in the text, if it is one."""
    columns: tuple[str, ...] | None = None
    """An insert's columns; None for all of the table."""
    items: tuple[str, ...] = ()
    """An insert's values as written."""
    equal: tuple[tuple[str, int], ...] = ()
    """The columns that WHERE compares, each with the index of its parameter."""
    changes: str = ""
    """The text that says what an existing row becomes."""
    conflict: frozenset[str] | None = None
    """The columns that ON CONFLICT names; None without that clause."""
    known: bool = True
    """Whether it is a plain INSERT, UPDATE or DELETE whose every `%s` is a parameter."""


class Group(NamedTuple):
    """Statements of one text, in their order."""

    sql: str
    rows: list[tuple[Any, ...]]


def plan(statements: Sequence[Statement], tables: Mapping[str, Table]) -> list[Group]:
    """Groups that, run one after the other, do what the statements do in their order."""
    groups: list[Group] = []
    latest: dict[str, int] = {}
    keys: dict[str, tuple[str, Key | None]] = {}
    after_row: dict[tuple[str, Any], int] = {}
    after_table: dict[str, int] = {}
    fence_of: dict[str, int] = {}
    fence = -1
    for text, parameters in statements:
        known = keys.get(text)
        if known is None:
            known = keys[text] = provable(shape_of(text), tables)
        table, key = known
        row = None if key is None else key.of(parameters)
        if not table:
            floor = len(groups) - 1
        elif row is None:
            floor = max(fence, after_table.get(table, -1))
        else:
            floor = max(fence, fence_of.get(table, -1), after_row.get((table, row), -1))
        at = latest.get(text, -1)
        if at < floor or at < 0:
            at = latest[text] = len(groups)
            groups.append(Group(text, []))
        groups[at].rows.append(parameters)
        if not table:
            fence = at
            continue
        after_table[table] = max(at, after_table.get(table, -1))
        if row is None:
            fence_of[table] = at
        else:
            after_row[table, row] = at
    return groups


class Key(NamedTuple):
    """Which parameters name the row that a statement touches."""

    pick: Callable[[tuple[Any, ...]], Any]
    types: tuple[type, ...]

    def of(self, parameters: tuple[Any, ...]) -> Any:
        """The row, or None where a parameter is not of the key's own type."""
        found = self.pick(parameters)
        if len(self.types) == 1:
            return found if type(found) is self.types[0] else None
        return found if tuple(map(type, found)) == self.types else None


def provable(shape: Shape, tables: Mapping[str, Table]) -> tuple[str, Key | None]:
    """The table that a text touches alone, or "", and which parameters name its row."""
    table = tables.get(shape.table)
    if table is None or not table.apart:
        return "", None
    indexes = row_indexes(shape, table)
    if not indexes:
        return shape.table, None
    return shape.table, Key(itemgetter(*indexes), tuple(table.key.values()))


def row_indexes(shape: Shape, table: Table) -> list[int]:
    """The parameters that name the row, in the key's order; empty where that is not proven."""
    key = list(table.key)
    if not key or any(re.search(rf"\b{name}\b", shape.changes, re.I) for name in key):
        return []
    if shape.conflict is not None and shape.conflict != set(key):
        return []
    if not shape.items:
        equal = dict(shape.equal)
        whole = set(equal) == set(key) and len(shape.equal) == len(key)
        return [equal[name] for name in key] if whole else []
    columns = shape.columns or table.columns
    places = {}
    index = 0
    for column, item in zip(columns, shape.items, strict=False):
        if item == "%s":
            places[column] = index
        index += item.count("%s")
    return [places[name] for name in key] if set(key) <= set(places) else []


@lru_cache(maxsize=4096)
def shape_of(text: str) -> Shape:
    """What a text says, as far as it is of a form that is known here."""
    # psycopg sees parameters in literals too: those stay as they are, and make the text opaque.
    masked = LITERAL.sub(
        lambda found: found[0].replace("%", "%%") if "%" in found[0] else dotted(found[0]), text
    )
    head = HEAD.match(masked)
    if head is None or OPAQUE.search(masked):
        return Shape("", None, known=False)
    table = head["into"] or head["updated"] or head["deleted"]
    rest = masked[head.end() :]
    called = {name.lower() for name in CALLS.findall(rest)}
    if READS.search(rest) or not called <= MEMORYLESS | CLAUSES:
        return Shape("", None)
    if head["insert"]:
        return inserting(masked, head, table)
    where = list(WHERE.finditer(masked))
    if len(where) != 1 or not EQUALITIES.fullmatch(masked, where[0].end()):
        return Shape(table, None)
    before = masked[: where[0].start()]
    names = EQUAL.findall(masked, where[0].end())
    first = before.count("%s")
    equal = tuple((name, first + index) for index, name in enumerate(names))
    changes = before[head.end() :] if head["updated"] else ""
    return Shape(table, None, equal=equal, changes=changes)


def dotted(literal: str) -> str:
    """A literal of the same length that says nothing."""
    return "'" + "." * (len(literal) - 2) + "'"


def inserting(masked: str, head: re.Match[str], table: str) -> Shape:
    """The shape of an INSERT of one row of values."""
    end = closing(masked, head.end())
    items = tuple(item.strip() for item in split(masked[head.end() : end]))
    columns = None
    if head["columns"] is not None:
        columns = tuple(name.strip() for name in head["columns"].split(","))
    tail = masked[end + 1 :]
    values = None
    if NO_CONFLICT.fullmatch(tail) and all(map(SIMPLE.fullmatch, items)):
        values = (head.end(), end)
    conflict, changes = None, ""
    if tail.strip():
        found = CONFLICT.match(tail)
        if found is None:
            # Without a named key any unique column may conflict.
            return Shape(table, values)
        conflict = frozenset(name.strip() for name in found["key"].split(","))
        changes = tail[found.end() :]
    return Shape(table, values, columns, items, (), changes, conflict)


def closing(text: str, start: int) -> int:
    """Where the parenthesis that opened before `start` closes."""
    depth = 1
    for index in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if not depth:
            return index
    return len(text)


def split(text: str) -> Iterable[str]:
    """The parts between commas that stand in no parenthesis."""
    depth, start = 0, 0
    for index, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            yield text[start:index]
            start = index + 1
    yield text[start:]
