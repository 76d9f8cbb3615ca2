"""Hands archived records out as if they still stood in Kafka's segment files.

1. An object is taken only where its bytes are its manifest's; one that is not is `Damage` with the
   offsets that it should hold, and reading goes on behind it. A manifest that is none is one, too.
2. What no object holds is not told here: whoever compares with the tree misses it.
"""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from .archive import Flaw, Manifest, fetch, latest, listed
from .depot import Depot
from .parquet import DamagedArchive, decoded
from .segments import Damage, Stored

__all__ = ["Cold"]


class Cold:
    """One partition's archive, for a comparison with its tree."""

    def __init__(self, depot: Depot, cache: Path, topic: str, partition: int) -> None:
        self.records = 0
        """Handed out."""
        self._depot, self._cache = depot, cache
        self._place = (topic, partition)

    def before(self, offset: int) -> Iterator[Stored | Damage]:
        """The archived records before an offset, -1 for all of them."""
        found = list(listed(self._depot, *self._place))
        whole = latest(one for one in found if isinstance(one, Manifest))
        begins = {one.first_offset for one in whole}
        flaws = {one.first_offset: one for one in found if isinstance(one, Flaw)}
        ranges = [*whole, *(flaw for begin, flaw in flaws.items() if begin not in begins)]
        ranges.sort(key=lambda one: one.first_offset)
        for one, following in zip_longest(ranges, ranges[1:]):
            if 0 <= offset <= one.first_offset:
                return
            if isinstance(one, Flaw):
                last = offset - 1 if following is None else following.first_offset - 1
                yield Damage(one.first_offset, max(last, -1), f"{one.name}: {one.what}")
                continue
            try:
                records = decoded(fetch(self._depot, one, self._cache))
            except DamagedArchive as error:
                last = min(one.next_offset, offset) if offset >= 0 else one.next_offset
                yield Damage(one.first_offset, last - 1, str(error))
                continue
            for record in records:
                if 0 <= offset <= record.offset:
                    return
                self.records += 1
                mark = record.digest if record.deleted else b""
                yield Stored(*record[:5], mark=mark)
