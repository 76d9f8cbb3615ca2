"""What events come to: counts, rates, percentiles, sums and their projection; pure.

1. Counts are whole numbers, amounts of money exact decimals; both are exact until an answer rounds.
2. Percentiles are of nearest rank: each of them is a duration that was measured.
3. A projection is a straight line through whole months, with the intervals of a single new
   observation; it is not made of fewer than MONTHS_MIN months.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import NamedTuple

__all__ = [
    "MONTHS_MIN",
    "Event",
    "Figures",
    "Group",
    "Projected",
    "Question",
    "bucket_of",
    "decimal",
    "month_after",
    "percentile",
    "permille",
    "projected",
    "summed",
    "whole",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SPANS_US = {"m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
MONTHS_MIN = 3
WHOLE = re.compile(r"-?[0-9]{1,18}")
AMOUNT = re.compile(r"-?[0-9]{1,18}[.][0-9]{1,18}")
INT64_MAX = 2**63 - 1
Group = tuple[tuple[str, ...], int]
"""Values that events share, and when their span of time begins."""
T_80 = (
    3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372, 1.363, 1.356, 1.350,
    1.345, 1.341, 1.337, 1.333, 1.330, 1.328, 1.325, 1.323, 1.321, 1.319, 1.318, 1.316, 1.315,
    1.314, 1.313, 1.311, 1.310,
)  # fmt: skip
"""Student's t for 80 %, two-sided, with 1, 2, … 30 degrees of freedom."""
T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
    2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""The same for 95 %."""
NORMAL_80, NORMAL_95 = 1.281552, 1.959964


class Event(NamedTuple):
    """What is looked at of one event; None for what it does not say."""

    at_us: int
    type: str
    span: str
    """What its beginning and its end share."""
    keys: tuple[str, ...]
    outcome: str | None
    cost: str | None


class Question(NamedTuple):
    """How events are counted."""

    bucket: str = ""
    successes: frozenset[str] = frozenset()
    failures: frozenset[str] = frozenset()
    begins: str = ""
    ends: frozenset[str] = frozenset()


@dataclass(slots=True)
class Figures:
    """What the events of one group and one span of time come to."""

    count: int = 0
    successes: int = 0
    failures: int = 0
    cost: int | Fraction = 0
    odd_costs: int = 0
    """Events whose cost is no amount of at most 18 digits and 18 decimals; it counts as nothing."""
    costs: int = 0
    """Events that say a cost."""
    durations_us: list[int] = field(default_factory=list)


class Projected(NamedTuple):
    """A month to come."""

    month_us: int
    cost: int
    low_80: int
    high_80: int
    low_95: int
    high_95: int


def summed(events: Iterable[Event], question: Question) -> dict[Group, Figures]:
    """Figures by group and span of time, of events in the order of their time.

    A beginning is met by the next end that shares its span, and only by that one.
    """
    found: dict[Group, Figures] = {}
    begun: dict[str, int] = {}
    for event in events:
        figures = found.setdefault((event.keys, bucket_of(event.at_us, question.bucket)), Figures())
        figures.count += 1
        if event.outcome is not None:
            figures.successes += event.outcome in question.successes
            figures.failures += event.outcome in question.failures
        if event.cost is not None:
            amount = amount_of(event.cost)
            figures.cost += amount or 0
            figures.odd_costs += amount is None
            figures.costs += 1
        if event.type in question.ends and event.span in begun:
            figures.durations_us.append(event.at_us - begun.pop(event.span))
        if event.type == question.begins:
            begun[event.span] = event.at_us
    return found


def amount_of(text: str) -> int | Fraction | None:
    """An amount as an event writes it; None for what is none."""
    if WHOLE.fullmatch(text):
        return int(text)
    return Fraction(text) if AMOUNT.fullmatch(text) else None


def decimal(amount: int | Fraction) -> str:
    """A sum of amounts with all of its decimals."""
    if isinstance(amount, int):
        return str(amount)
    digits = round(amount * 10**18)
    whole, rest = divmod(abs(digits), 10**18)
    return f"{'-' if digits < 0 else ''}{whole}.{rest:018d}".rstrip("0").rstrip(".")


def bucket_of(at_us: int, bucket: str) -> int:
    """When the span of time begins that a moment lies in; 0 where there is one span."""
    if not bucket:
        return 0
    if bucket == "1mo":
        return month_of(at_us)
    width = int(bucket[:-1]) * SPANS_US[bucket[-1]]
    return at_us - at_us % width


def month_of(at_us: int) -> int:
    """When the calendar month (UTC) of a moment begins."""
    at = EPOCH + timedelta(microseconds=at_us)
    return micros(at.replace(day=1, hour=0, minute=0, second=0, microsecond=0))


def month_after(month_us: int) -> int:
    """When the month after a month begins."""
    # 32 days after its first day lies in the next one.
    return month_of(month_us + 32 * SPANS_US["d"])


def micros(at: datetime) -> int:
    """A time in microseconds since 1970."""
    return (at - EPOCH) // timedelta(microseconds=1)


def percentile(ordered: Sequence[int], percent: int) -> int:
    """The smallest value that at least so many percent of all do not exceed; 0 of none."""
    if not ordered:
        return 0
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(rank, 1) - 1]


def permille(successes: int, failures: int) -> int:
    """Successes of a thousand that succeeded or failed, rounded half up; 0 of none."""
    whole = successes + failures
    return (2000 * successes + whole) // (2 * whole) if whole else 0


def projected(costs: Sequence[int | Fraction], first_us: int, months: int) -> list[Projected]:
    """The months that follow months of these costs, the first of which begins at `first_us`.

    Least squares: with x = 0 … n-1, b = Sxy / Sxx and a = mean(y) - b mean(x), the month x0 is
    expected to cost a + b x0. A single new observation lies, with the probability that t stands
    for, within t(n-2) s sqrt(1 + 1/n + (x0 - mean(x))² / Sxx) of it, where s² = SSE / (n-2).
    Source: NIST/SEMATECH e-Handbook of Statistical Methods, 4.5.1.2, and 1.3.6.7.2 for t. It takes
    months as independent and errors as normal; it knows no seasons.
    """
    n = len(costs)
    if n < MONTHS_MIN:
        return []
    mean_x, mean_y = Fraction(n - 1, 2), Fraction(sum(costs)) / n
    sxx = sum(((x - mean_x) ** 2 for x in range(n)), Fraction())
    sxy = sum(((x - mean_x) * (y - mean_y) for x, y in enumerate(costs)), Fraction())
    slope = sxy / sxx
    level = mean_y - slope * mean_x
    sse = sum(((y - level - slope * x) ** 2 for x, y in enumerate(costs)), Fraction())
    found = []
    month = first_us
    for _ in range(n):
        month = month_after(month)
    for x in range(n, n + months):
        middle = level + slope * x
        spread = math.sqrt(sse / (n - 2) * (1 + Fraction(1, n) + (x - mean_x) ** 2 / sxx))
        at_80, at_95 = (Fraction(t * spread) for t in (student(T_80, n - 2), student(T_95, n - 2)))
        bounds = (middle, middle - at_80, middle + at_80, middle - at_95, middle + at_95)
        found.append(Projected(month, *(whole(one) for one in bounds)))
        month = month_after(month)
    return found


def student(table: Sequence[float], freedom: int) -> float:
    """Student's t; beyond the table by Abramowitz and Stegun 26.7.5, to three places."""
    if freedom <= len(table):
        return table[freedom - 1]
    z = NORMAL_80 if table is T_80 else NORMAL_95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def whole(value: int | Fraction) -> int:
    """The nearest whole number that an answer can carry."""
    return max(-INT64_MAX, min(INT64_MAX, round(value)))
