"""Quarters, months and days in UTC."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from loom.decider import Code, Rejected

__all__ = ["Period", "period_of"]

MONTHS_A_QUARTER = 3


class Period(NamedTuple):
    """From one moment on, before another; microseconds since 1970."""

    name: str
    from_us: int
    to_us: int


def period_of(name: str) -> Period:
    """The period that `2026Q4`, `2026-11` or `2026-11-22` names."""
    year, quarter, rest = name[:4], name[4:5] == "Q", name[5:]
    try:
        if quarter:
            first = (int(rest) - 1) * MONTHS_A_QUARTER + 1
            begin, end = month(int(year), first), month(int(year), first + MONTHS_A_QUARTER)
        elif "-" in rest:
            begin = datetime.strptime(name, "%Y-%m-%d").replace(tzinfo=UTC)
            end = begin + timedelta(days=1)
        else:
            begin, end = month(int(year), int(rest)), month(int(year), int(rest) + 1)
    except (ValueError, OverflowError):
        told = f"period is {name!r}: want a quarter, month or day that exists, e.g. 2026Q4"
        raise Rejected(Code.INVALID_ARGUMENT, told, "period") from None
    return Period(name, us_of(begin), us_of(end))


def month(year: int, number: int) -> datetime:
    """The beginning of a month; number 13 is the next year's first."""
    over, index = divmod(number - 1, 12)
    if over and index:
        raise ValueError(number)
    return datetime(year + over, index + 1, 1, tzinfo=UTC)


def us_of(moment: datetime) -> int:
    """A moment in microseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
