"""Spans of time as keys of the audit index, so that what GIN finds can be had piece by piece; pure.

1. An event stands under the span of each length that it lies in: the lengths are of one factor, so
   few keys name any range that begins and ends at bounds of one of them.
2. A key's first letter names its length; keys of two lengths are never the same. An event's stand
   in the order of their lengths.
"""

from collections.abc import Sequence

__all__ = ["KEYS_MAX", "WIDTH_US_MAX", "cut", "keys", "path_of", "spans_of"]

SHIFTS = (("a", 27), ("b", 32), ("c", 37), ("d", 42))
"""Two minutes, an hour, a day and a half, fifty days: in microseconds, as powers of two."""
KEYS_MAX = 32
WIDTH_US_MAX = KEYS_MAX << SHIFTS[-1][1]
"""As much time as one question can name."""


def spans_of(at_us: int) -> list[str]:
    """The keys of an event of this time."""
    return [f"{letter}{at_us >> shift:x}" for letter, shift in SHIFTS]


def cut(begin_us: int, width_us: int, descending: bool) -> tuple[int, int]:
    """The range from there on, forwards or backwards, about so wide; never an empty one.

    Its far end lies at a bound of spans; its near end is where it begins, left out if backwards.
    """
    _, shift = length_of(width_us)
    count = min(KEYS_MAX, -(-width_us >> shift) or 1)
    if descending:
        return max(0, (begin_us - 1 >> shift) + 1 - count) << shift, begin_us
    return begin_us, ((begin_us >> shift) + count) << shift


def keys(begin_us: int, end_us: int) -> Sequence[str]:
    """The keys of every event in [begin, end), and of few others."""
    letter, shift = length_of(end_us - begin_us)
    return [f"{letter}{at:x}" for at in range(begin_us >> shift, (end_us - 1 >> shift) + 1)]


def path_of(begin_us: int, end_us: int) -> str:
    """The `jsonpath` of those keys, which are compared with the one of their length alone."""
    asked = keys(begin_us, end_us)
    place = [letter for letter, _ in SHIFTS].index(asked[0][0])
    tests = " || ".join(f'@ == "{key}"' for key in asked)
    return f'$."span"[{place}] ? ({tests})'


def length_of(width_us: int) -> tuple[str, int]:
    """The shortest span of which few make up a range."""
    return next((one for one in SHIFTS if width_us <= KEYS_MAX << one[1]), SHIFTS[-1])
