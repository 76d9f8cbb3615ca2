"""Compares an archived range with the signed tree.

1. What was read back is digested and judged, its leaves are made, and the tree's root is computed
   with these leaves in their places; only the root that the notary signed will do.
2. Where it is not, the first record that differs is named; where none does it is the tree's fault.
"""

from collections.abc import Sequence

from .archive import Manifest
from .judge import Base, Judge, digest
from .leaf import leaf_of, topic_digest
from .merkle import leaf_hash, node_hash, root
from .notary import origin_of
from .note import Checkpoint, InvalidNote, Verifier
from .parquet import Archived, Columns, DamagedArchive, columns_of
from .survey import Sealed
from .tiles import DamagedTree, Tiles

__all__ = ["verify", "verify_claims"]

CODEC = "parquet+zstd"
OWN = ("event_id", "at_us", "stream", "version", "command_id")
"""Columns that say what the record says; the others may be under the names of its user."""


def verify(manifest: Manifest, records: Sequence[Archived], sealed: Sealed) -> None:
    """Compare what was read back with the signed tree; raises DamagedArchive saying what differs,
    or DamagedTree.

    `sealed` may be a later, larger tree than the one that the manifest names.
    """
    where = manifest.object
    if len(records) != manifest.rows:
        raise DamagedArchive(f"{where} has {len(records)} records, the manifest {manifest.rows}")
    if manifest.first_index + len(records) > sealed.tree.size:
        raise DamagedArchive(f"{where} reaches beyond the {sealed.tree.size} signed leaves")
    judge = Judge(Base.parse(manifest.base_before))
    topic = topic_digest(manifest.topic)
    leaves = []
    for record in records:
        mark = record.digest
        if not record.deleted and digest(record.key, record.headers, record.value) != mark:
            raise DamagedArchive(f"{where}: offset {record.offset} is not the record it says it is")
        verdict = judge.admit(record.key, record.headers, record.value, mark)
        if int(verdict.kind) != record.kind:
            raise DamagedArchive(f"{where}: offset {record.offset} is of kind {verdict.kind:d}")
        leaf = leaf_of(
            topic,
            manifest.partition,
            judge.incarnation,
            record.offset,
            record.timestamp_ms,
            verdict,
        )
        leaves.append(leaf.pack())
    hashes = [leaf_hash(leaf) for leaf in leaves]
    if root_with(sealed.tree, manifest.first_index, hashes) != sealed.checkpoint.root:
        for index, leaf in enumerate(leaves, start=manifest.first_index):
            if sealed.tree.entry(index) != leaf:
                offset = records[index - manifest.first_index].offset
                raise DamagedArchive(f"{where}: offset {offset} is not what was signed")
        raise DamagedTree(f"{sealed.tree.folder} does not give the signed root")
    if judge.base(manifest.next_offset, records[-1].timestamp_ms).text() != manifest.base_after:
        raise DamagedArchive(f"{where} does not end at the base that its manifest names")


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


def verify_claims(
    manifest: Manifest,
    records: Sequence[Archived],
    columns: Sequence[Columns],
    sealed: Sealed,
    verifier: Verifier,
) -> None:
    """Compare what object and manifest say beside the records; raises DamagedArchive, DamagedTree.

    Nothing of it is believed where records are read; searches in the archive go by the columns.
    """
    try:
        checkpoint = verifier.open(manifest.checkpoint)
    except InvalidNote as error:
        raise DamagedArchive(f"{manifest.name}: its checkpoint: {error}") from error
    origin = origin_of(verifier.name, manifest.topic, manifest.partition, manifest.tree)
    stated = Checkpoint(origin, manifest.tree_size, bytes.fromhex(manifest.root))
    if checkpoint != stated:
        raise DamagedArchive(f"{manifest.name}: its size and root are not its checkpoint's")
    # A restored log's earlier trees hold records that were lost.
    shared = manifest.tree == sealed.incarnation and manifest.tree_size <= sealed.tree.size
    if shared and sealed.tree.root(manifest.tree_size) != stated.root:
        raise DamagedArchive(f"{manifest.name}: its checkpoint is of another history")
    said = (manifest.first_ms, manifest.last_ms, manifest.deleted, manifest.codec)
    gone = sum(record.deleted for record in records)
    if said != (records[0].timestamp_ms, records[-1].timestamp_ms, gone, CODEC):
        raise DamagedArchive(f"{manifest.name}: its times, deletions or codec are not the object's")
    for record, found in zip(records, columns, strict=True):
        wanted = columns_of(record, ("", ""))
        if any(getattr(found, name) != getattr(wanted, name) for name in OWN):
            raise DamagedArchive(
                f"{manifest.object}: the columns of offset {record.offset} are not the record's"
            )
