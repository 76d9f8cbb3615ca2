"""Hands archived records out as if they still stood in Kafka's segment files.

1. An object is taken only where its bytes are its manifest's; one that is not is `Damage` with the
   offsets that it should hold, and reading goes on behind it.
"""

from collections.abc import Iterator
from pathlib import Path

from .archive import fetch, manifests, newest
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
        try:
            ranges = newest(manifests(self._depot, *self._place))
        except DamagedArchive as error:
            yield Damage(0, offset - 1 if offset >= 0 else -1, str(error))
            return
        for one in ranges:
            if 0 <= offset <= one.first_offset:
                return
            try:
                records = decoded(fetch(self._depot, one, self._cache))
            except DamagedArchive as error:
                yield Damage(one.first_offset, one.next_offset - 1, str(error))
                continue
            for record in records:
                if 0 <= offset <= record.offset:
                    return
                self.records += 1
                mark = record.digest if record.deleted else b""
                yield Stored(*record[:5], mark=mark)
