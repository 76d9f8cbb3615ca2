"""A reader's place in the whole log: for each partition the next offset, as text and back.

1. The text names the last record that was read, as receipts do, `topic:partition:offset:…` with the
   incarnation, joined by commas. A partition that is not named was not read at all.
2. What was not made by `text_of` is refused with what is wrong with it.
"""

import re
from collections.abc import Mapping

from loom.decider import Code, Rejected

__all__ = ["Place", "Vector", "later", "parse", "text_of"]

Place = tuple[str, int]
"""A topic and the number of one of its partitions."""
Vector = dict[Place, int]
"""The next offset of each partition; an absent one is at its beginning."""

POSITION = re.compile(r"(loomos\.[a-z-]{1,64}):([0-9]{1,4}):([0-9]{1,18}):([0-9]{1,9})")


def text_of(vector: Mapping[Place, int], incarnations: Mapping[Place, int]) -> str:
    """The place as text."""
    return ",".join(
        f"{place[0]}:{place[1]}:{offset - 1}:{incarnations.get(place, 0)}"
        for place, offset in sorted(vector.items())
        if offset > 0
    )


def parse(text: str) -> tuple[Vector, dict[Place, int]]:
    """The place that a text names, and the incarnations that it speaks of; raises Rejected."""
    vector: Vector = {}
    incarnations: dict[Place, int] = {}
    for part in text.split(",") if text else ():
        form = POSITION.fullmatch(part)
        place = (form.group(1), int(form.group(2))) if form else ("", 0)
        if form is None or place in vector:
            told = f"{part[:80]!r} is no position of an earlier answer: topic:partition:offset:…"
            raise Rejected(Code.INVALID_ARGUMENT, told, "cursor")
        vector[place] = int(form.group(3)) + 1
        incarnations[place] = int(form.group(4))
    return vector, incarnations


def later(one: Mapping[Place, int], other: Mapping[Place, int]) -> Vector:
    """The place that is behind both."""
    return {place: max(one.get(place, 0), other.get(place, 0)) for place in {*one, *other}}
