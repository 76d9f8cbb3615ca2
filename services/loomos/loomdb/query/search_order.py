"""Orders of the audit index, and cursors: the places of rows in them."""

import base64
import json
from typing import Any, NamedTuple, cast

from loom.decider import Code, Rejected
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.query.search_sql import Clause, Values

__all__ = ["ORDERS", "PLACE", "Order", "behind", "cursor_of"]

PLACE = ("at_us", "topic", "partition", "record_offset")
ORDERS = {
    pb.EVENT_ORDER_UNSPECIFIED: PLACE,
    pb.EVENT_ORDER_TYPE: ("type", *PLACE),
    pb.EVENT_ORDER_ACTOR: ("actor", *PLACE),
}
KINDS = {
    "type": str, "actor": str, "at_us": int, "topic": str, "partition": int, "record_offset": int,
}  # fmt: skip


class Order(NamedTuple):
    """An order of rows."""

    columns: tuple[str, ...]
    descending: bool

    @property
    def text(self) -> str:
        """As ORDER BY says it."""
        return ", ".join(f"{name} DESC" if self.descending else name for name in self.columns)


def cursor_of(row: dict[str, Any], order: Order) -> str:
    """A row's place in the order, as text."""
    place = [row[name] for name in order.columns]
    told = json.dumps([order.columns[0], order.descending, *place], separators=(",", ":"))
    return base64.urlsafe_b64encode(told.encode()).decode().rstrip("=")


def behind(cursor: str, order: Order, values: Values) -> Clause:
    """What lies behind a cursor; raises Rejected where it is not one of this order."""
    place = place_of(cursor, order)
    if place is None:
        told = f"cursor {cursor[:80]!r} was not given by an earlier page of this order"
        raise Rejected(Code.INVALID_ARGUMENT, told, "cursor")
    columns = ", ".join(order.columns)
    given = ", ".join(
        f"{values.add(value)}::{'text' if isinstance(value, str) else 'bigint'}" for value in place
    )
    return Clause(f"({columns}) {'<' if order.descending else '>'} ({given})", True)


def place_of(cursor: str, order: Order) -> list[Any] | None:
    """The place that `cursor_of` told; None where it told none of this order."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        told = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, list) or told[:2] != [order.columns[0], order.descending]:
        return None
    place = cast("list[Any]", told[2:])
    if len(place) != len(order.columns):
        return None
    for name, value in zip(order.columns, place, strict=True):
        if type(value) is not KINDS[name] or (isinstance(value, str) and "\0" in value):
            return None
        if isinstance(value, int) and not 0 <= value < 2**63:
            return None
        if isinstance(value, str) and not value.isprintable():
            return None
    return place
