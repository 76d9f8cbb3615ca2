"""Writes an export of the log: what `loomos-verify` needs, in a folder of its own.

1. The tree's files are stored as they are served (C2SP tlog-tiles): hashes of the whole tree,
   leaves of the exported range. Records are stored as the bytes that their digests are taken over.
2. The folder is made whole or not at all: it gets its name when everything is in it.
3. Content that a policy deleted is not there; the events that allowed it are, with their proofs.
4. The verifier's file is put beside them; a stranger who does not trust it takes it from elsewhere.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple, Protocol

from loom.log.leaf import unpack
from loom.log.note import parse_checkpoint, split
from loom.log.tiles import WIDTH, split_entries, tile_path

__all__ = ["Exported", "Source", "TreeTooSmall", "export"]

VERIFIER = "loomos_verify.py"


class TreeTooSmall(Exception):
    """A checkpoint says more leaves than there are files for."""


class Source(Protocol):
    """Where an export comes from."""

    deletions: dict[bytes, str]
    """Events that allowed deletions in what `records` gave, as records, with their proofs."""

    def tree(self, log: str, path: str) -> bytes | None:
        """A file of a log's tree, `checkpoint` among them; None where there is none."""
        ...

    def records(self, log: str, first: int, end: int) -> Iterator[bytes]:
        """The records from offset `first` on, below `end`, packed (loom.log.export.Frame)."""
        ...


class Exported(NamedTuple):
    """What was exported of one log."""

    log: str
    leaves: int
    first: int
    end: int
    record_bytes: int


def export(
    source: Source,
    logs: Sequence[str],
    out: Path,
    *,
    public_key: str,
    from_ms: int = 0,
    to_ms: int = 0,
    complete: bool = True,
    told: Callable[[Exported], None] = lambda _: None,
) -> list[Exported]:
    """Write the export; FileExistsError where the folder is there already."""
    if out.exists():
        raise FileExistsError(f"{out} is there already: an export has a folder of its own")
    fresh = out.with_name(f"{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    done = []
    for log in logs:
        folder = fresh / "logs" / log
        note = source.tree(log, "checkpoint")
        if note is None:
            continue
        put(folder / "checkpoint", note)
        one = Tree(source, log, folder, parse_checkpoint(split(note.decode())[0]).size)
        done.append(one.write(from_ms, to_ms))
        told(done[-1])
    for record, proof in source.deletions.items():
        name = sha256(record).hexdigest()[:32]
        put(fresh / "deletions" / f"{name}.record", record)
        put(fresh / "deletions" / f"{name}.tlog-proof", proof.encode())
    about = {
        "format": 1,
        "from_ms": from_ms,
        "to_ms": to_ms,
        "logs": {
            one.log: {"first": one.first, "end": one.end, "complete": complete} for one in done
        },
    }
    put(fresh / "export.json", (json.dumps(about, indent=2, sort_keys=True) + "\n").encode())
    put(fresh / "notary.pub", (public_key.strip() + "\n").encode())
    put(fresh / VERIFIER, files("loomos.verify").joinpath(VERIFIER).read_bytes())
    fresh.rename(out)
    return done


class Tree:
    """One log's tree on its way into an export."""

    def __init__(self, source: Source, log: str, folder: Path, size: int) -> None:
        self.source = source
        self.log = log
        self.folder = folder
        self.size = size

    def write(self, from_ms: int, to_ms: int) -> Exported:
        """Store the range's leaves and records, and the hashes of everything else."""
        first = self.index_at(from_ms) if from_ms else 0
        end = self.index_at(to_ms) if to_ms else self.size
        full, rest = divmod(self.size, WIDTH)
        for number in range(first // WIDTH, -(-end // WIDTH)):
            self.keep("0", number, self.width(number))
            self.keep("entries", number, self.width(number))
        if rest:
            self.keep("0", full, rest)
        for number in range(-(-full // WIDTH)):
            self.keep("1", number, min(WIDTH, full - number * WIDTH))
        record_bytes = 0
        records = self.folder / "records"
        records.parent.mkdir(parents=True, exist_ok=True)
        with records.open("wb") as file:
            if first < end:
                last = self.offset_of(end - 1)
                for page in self.source.records(self.log, self.offset_of(first), last + 1):
                    file.write(page)
                    record_bytes += len(page)
        return Exported(self.log, self.size, first, end, record_bytes)

    def keep(self, level: str, number: int, width: int) -> bytes:
        """Store one file of the tree."""
        path = tile_path(level, number, width)
        content = self.source.tree(self.log, path)
        if content is None:
            raise TreeTooSmall(f"{self.log}: the tree of {self.size} leaves has no {path}")
        put(self.folder / path, content)
        return content

    def width(self, number: int) -> int:
        """How many leaves a bundle has."""
        return min(WIDTH, self.size - number * WIDTH)

    def entries(self, number: int) -> list[bytes]:
        """The leaves of a bundle, from the export where it is there already."""
        path = tile_path("entries", number, self.width(number))
        stored = self.folder / path
        content = stored.read_bytes() if stored.exists() else self.source.tree(self.log, path)
        if content is None:
            raise TreeTooSmall(f"{self.log}: the tree of {self.size} leaves has no {path}")
        return split_entries(content)

    def offset_of(self, index: int) -> int:
        """The offset of a leaf's record."""
        return unpack(self.entries(index // WIDTH)[index % WIDTH]).offset

    def index_at(self, time_ms: int) -> int:
        """The first leaf whose broker time is not before a moment; times rise with offsets."""
        low, high = 0, -(-self.size // WIDTH)
        while low < high:
            middle = (low + high) // 2
            if unpack(self.entries(middle)[-1]).time_ms < time_ms:
                low = middle + 1
            else:
                high = middle
        if low * WIDTH >= self.size:
            return self.size
        for place, entry in enumerate(self.entries(low)):
            if unpack(entry).time_ms >= time_ms:
                return low * WIDTH + place
        return self.size


def put(path: Path, content: bytes) -> None:
    """Write one file of the export."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
