"""A range of a partition in object storage: a Parquet object, and the manifest that vouches for it.

1. A range begins and ends on a command's boundary and lies below the signed size of its tree.
2. Object and manifest are written before anything relies on them, and `verify` takes neither on
   trust: it digests and judges what was read back, makes its leaves, and computes the tree's root
   with these leaves in their places; only the root that the notary signed will do.
3. A range that is written again (recompressed, or records deleted) is a new generation: a new
   object and a new manifest. The newest one counts; the old one goes when that is verified.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .depot import Depot
from .judge import Base, Judge, digest
from .leaf import leaf_of, topic_digest
from .merkle import leaf_hash, node_hash, root
from .parquet import Archived, DamagedArchive
from .tiles import Tiles

if TYPE_CHECKING:
    from .verify import Sealed

__all__ = ["Manifest", "fetch", "manifests", "newest", "store", "verify"]

FORMAT = 1
MANIFEST_BYTES_MAX = 1 << 20
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
            Base.parse(made.base_before)
            Base.parse(made.base_after)
        except (ValueError, TypeError, AttributeError) as error:
            raise DamagedArchive(f"not a manifest: {error}") from error
        return made


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
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError as error:
        raise DamagedArchive(f"{manifest.object} is not in {depot.url}") from error
    if found != manifest.sha256:
        if path.parent == cache:
            path.unlink()
        raise DamagedArchive(
            f"{manifest.object}: its SHA-256 is {found}, the manifest says {manifest.sha256}"
        )
    return path


def manifests(depot: Depot, topic: str, partition: int) -> list[Manifest]:
    """All manifests of a partition, by offset and generation; raises DamagedArchive."""
    found = []
    for entry in depot.list(f"{topic}/{partition}"):
        named = NAME.fullmatch(entry.name.rpartition("/")[2])
        if named is None:
            continue
        try:
            manifest = Manifest.parse(depot.get(entry.name))
        except DamagedArchive as error:
            raise DamagedArchive(f"{entry.name}: {error}") from error
        if manifest.name != entry.name:
            raise DamagedArchive(f"{entry.name} is the manifest of {manifest.name}")
        found.append(manifest)
    return found


def newest(found: Iterable[Manifest]) -> list[Manifest]:
    """Of each range the newest generation, in the log's order; raises DamagedArchive at a gap."""
    by_start: dict[int, Manifest] = {}
    for manifest in found:
        held = by_start.get(manifest.first_offset)
        if held is None or held.generation < manifest.generation:
            by_start[manifest.first_offset] = manifest
    chain = [by_start[start] for start in sorted(by_start)]
    for before, after in itertools.pairwise(chain):
        if before.base_after != after.base_before:
            raise DamagedArchive(
                f"{after.name} does not go on where {before.name} ends, at {before.next_offset}"
            )
    return chain


def verify(manifest: Manifest, records: Sequence[Archived], sealed: "Sealed") -> None:
    """Compare what was read back with the signed tree; raises DamagedArchive saying what differs.

    `sealed` may be a later, larger tree than the one that the manifest names.
    """
    where = manifest.object
    if len(records) != manifest.rows:
        raise DamagedArchive(f"{where} has {len(records)} records, the manifest {manifest.rows}")
    judge = Judge(Base.parse(manifest.base_before))
    topic = topic_digest(manifest.topic)
    hashes = []
    for record in records:
        mark = record.digest
        if not record.deleted and digest(record.key, record.headers, record.value) != mark:
            raise DamagedArchive(f"{where}: offset {record.offset} is not the record it says it is")
        verdict = judge.admit(record.key, record.headers, record.value, mark)
        leaf = leaf_of(
            topic,
            manifest.partition,
            judge.incarnation,
            record.offset,
            record.timestamp_ms,
            verdict,
        )
        hashes.append(leaf_hash(leaf.pack()))
    last = records[-1]
    if judge.base(manifest.next_offset, last.timestamp_ms).text() != manifest.base_after:
        raise DamagedArchive(f"{where} does not end at the base that its manifest names")
    if manifest.first_index + len(hashes) > sealed.tree.size:
        raise DamagedArchive(f"{where} reaches beyond the {sealed.tree.size} signed leaves")
    if root_with(sealed.tree, manifest.first_index, hashes) != sealed.checkpoint.root:
        raise DamagedArchive(f"{where}: its leaves do not give the signed root")


def root_with(tree: Tiles, first: int, hashes: Sequence[bytes]) -> bytes:
    """The tree's root, computed with these leaf hashes from leaf `first` on."""
    end = first + len(hashes)

    def node(level: int, index: int) -> bytes:
        start = index << level
        if start + (1 << level) <= first or start >= end:
            return tree.node(level, index)
        if level == 0:
            return hashes[start - first]
        return node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))

    return root(tree.size, node)
