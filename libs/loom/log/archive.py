"""A range of a partition in object storage: a Parquet object, and the manifest that vouches for it.

1. A range begins and ends on a command's boundary and lies below the signed size of its tree.
2. Object and manifest are written before anything relies on them, and nobody takes either on trust:
   `vouched.verify` compares what was read back with the signed tree.
3. A range that is written again (recompressed, or records deleted) is a new generation: a new
   object and a new manifest. The newest one counts; the old one goes when that is verified.
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

from . import regular
from .depot import Depot, DepotAway
from .judge import Base
from .note import SIZE_MAX
from .parquet import ROWS_MAX, DamagedArchive

__all__ = [
    "Flaw",
    "Manifest",
    "fetch",
    "latest",
    "listed",
    "manifests",
    "newest",
    "store",
]

FORMAT = 1
MANIFEST_BYTES_MAX = 1 << 20
OBJECT_BYTES_MAX = 256 << 20
"""Four times what a range holds before it is compressed."""
ROOT = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"(?P<start>[0-9]{20})-(?P<generation>[0-9]{3})\.json")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one object holds, and what vouches for it."""

    topic: str
    partition: int
    generation: int
    """How often the range was written: 0 first, more after recompression or deletion."""
    first_offset: int
    next_offset: int
    rows: int
    deleted: int
    """Rows whose content is gone."""
    first_ms: int
    last_ms: int
    """The broker's times of the first and the last record."""
    base_before: str
    base_after: str
    tree: int
    """The tree's incarnation."""
    first_index: int
    """The first record's leaf."""
    tree_size: int
    root: str
    checkpoint: str
    """The signed note that states size and root."""
    level: int
    sha256: str
    size_bytes: int
    codec: str = "parquet+zstd"
    format: int = FORMAT

    @property
    def object(self) -> str:
        """The object's name."""
        return f"{self.stem}.parquet"

    @property
    def name(self) -> str:
        """The manifest's own name."""
        return f"{self.stem}.json"

    @property
    def stem(self) -> str:
        """What both names begin with."""
        place = f"{self.topic}/{self.partition}"
        return f"{place}/{self.first_offset:020d}-{self.generation:03d}"

    def text(self) -> bytes:
        """The manifest as stored: one JSON object, keys sorted."""
        return (json.dumps(asdict(self), sort_keys=True, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes) -> "Manifest":
        """The manifest that `text` gave; raises DamagedArchive for anything else."""
        try:
            stored = json.loads(data[:MANIFEST_BYTES_MAX])
            if stored.get("format") != FORMAT:
                raise ValueError(f"format {stored.get('format')!r}, known is {FORMAT}")
            made = cls(**stored)
            made._check()
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedArchive(f"not a manifest: {error}") from error
        return made

    def _check(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not field.type or (field.type is int and not 0 <= value <= SIZE_MAX):
                raise ValueError(f"{field.name} is {str(value)[:40]!r}")
        ends = Base.parse(self.base_before).offset, Base.parse(self.base_after).offset
        if ends != (self.first_offset, self.next_offset) or ends[0] >= ends[1]:
            raise ValueError(f"offsets {self.first_offset} to {self.next_offset}, bases {ends}")
        if not ROOT.fullmatch(self.root):
            raise ValueError(f"root {self.root[:70]!r}")
        if not (0 < self.rows <= ROWS_MAX and self.size_bytes <= OBJECT_BYTES_MAX):
            raise ValueError(f"{self.rows} records in {self.size_bytes} bytes")


class Flaw(NamedTuple):
    """What stands in a manifest's place and is none."""

    first_offset: int
    """Of its range, as its name says."""
    name: str
    what: str


def store(depot: Depot, manifest: Manifest, content: bytes) -> None:
    """Write the object, then the manifest."""
    depot.put(manifest.object, content)
    depot.put(manifest.name, manifest.text())


def fetch(depot: Depot, manifest: Manifest, cache: Path) -> Path:
    """The object as a local file whose SHA-256 is the manifest's; raises DamagedArchive.

    Objects from a bucket are kept in the cache under their digest.
    """
    path = depot.path(manifest.object)
    if path is None:
        path = cache / f"{manifest.sha256}.parquet"
    try:
        if path.parent == cache and not path.exists():
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            fresh.write_bytes(depot.get(manifest.object))
            fresh.replace(path)
        with regular.opened(path) as file:
            size = file.seek(0, os.SEEK_END)
            found = f"not that of {manifest.size_bytes} bytes but of {size}"
            if size == manifest.size_bytes:
                file.seek(0)
                found = hashlib.file_digest(file, "sha256").hexdigest()
    except DepotAway:
        raise
    except FileNotFoundError as error:
        raise DamagedArchive(f"{manifest.object} is not in {depot.url}") from error
    except OSError as error:
        raise DamagedArchive(f"{manifest.object} cannot be read: {error.strerror}") from error
    if found != manifest.sha256:
        if path.parent == cache:
            path.unlink()
        raise DamagedArchive(
            f"{manifest.object}: its SHA-256 is {found}, the manifest says {manifest.sha256}"
        )
    return path


def listed(depot: Depot, topic: str, partition: int) -> Iterator["Manifest | Flaw"]:
    """All manifests of a partition, by offset and generation, also those that are none."""
    for entry in depot.list(f"{topic}/{partition}"):
        named = NAME.fullmatch(entry.name.rpartition("/")[2])
        if named is None:
            continue
        flaw = Flaw(int(named["start"]), entry.name, f"it has {entry.size_bytes} bytes")
        if entry.size_bytes > MANIFEST_BYTES_MAX:
            yield flaw
            continue
        try:
            manifest = Manifest.parse(depot.get(entry.name))
        except FileNotFoundError:
            # A newer generation has replaced it meanwhile.
            continue
        except DamagedArchive as error:
            yield flaw._replace(what=str(error))
            continue
        if manifest.name != entry.name:
            yield flaw._replace(what=f"it is the manifest of {manifest.name}")
            continue
        yield manifest


def manifests(depot: Depot, topic: str, partition: int) -> list[Manifest]:
    """All manifests of a partition, by offset and generation; raises DamagedArchive."""
    found = []
    for one in listed(depot, topic, partition):
        if isinstance(one, Flaw):
            raise DamagedArchive(f"{one.name}: {one.what}")
        found.append(one)
    return found


def latest(found: Iterable[Manifest]) -> list[Manifest]:
    """Of each range the newest generation, in the log's order."""
    by_start: dict[int, Manifest] = {}
    for manifest in found:
        held = by_start.get(manifest.first_offset)
        if held is None or held.generation < manifest.generation:
            by_start[manifest.first_offset] = manifest
    return [by_start[start] for start in sorted(by_start)]


def newest(found: Iterable[Manifest]) -> list[Manifest]:
    """Of each range the newest generation, in the log's order; raises DamagedArchive at a gap."""
    chain = latest(found)
    for before, after in itertools.pairwise(chain):
        if before.base_after != after.base_before:
            raise DamagedArchive(
                f"{after.name} does not go on where {before.name} ends, at {before.next_offset}"
            )
    return chain
