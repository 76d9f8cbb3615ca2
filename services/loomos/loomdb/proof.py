"""Answers from the signed trees: checkpoints, inclusion and consistency proofs.

Nothing here is trusted by who verifies: the signature and the hashes speak for themselves.
"""

from pathlib import Path
from typing import NamedTuple

from loom.decider import Code, Rejected
from loom.log.leaf import unpack
from loom.log.merkle import consistency_proof, inclusion_proof, verify_consistency
from loom.log.notary import CHECKPOINT_FILE, newest_tree
from loom.log.note import Checkpoint, Signer, Verifier, load_signer, parse_checkpoint, split
from loom.log.proof import Proof
from loom.log.tiles import WIDTH, Tiles, parse_tile_path, read_bounded
from loom.log.witnesses import Policy, published, witnessed
from loom.v1 import common_pb2
from loom.v1 import loomdb_pb2 as pb

__all__ = ["Place", "Trees", "tree_named"]

NOTE_BYTES_MAX = 524_288
MINIMUM_FILE = "minimum"
"""Leaves before this index are pruned: whoever archives them writes it (tlog-tiles, pruning)."""


class Place(NamedTuple):
    """A tree at one size."""

    topic: str
    partition: int
    size: int
    last_offset: int

    def text(self) -> str:
        """As a cut names it."""
        return f"{self.topic}/{self.partition}:{self.size}"


class Trees:
    """The trees in a folder, and the key that signs them. Reads files: call it in a thread."""

    def __init__(self, folder: Path, public_key: Path, policy: Policy = Policy()) -> None:  # noqa: B008 - immutable
        self.folder = folder
        self.public_key = public_key
        self.policy = policy

    def checkpoint(self, request: pb.GetCheckpointRequest) -> pb.SignedCheckpoint:
        """The latest checkpoint of a partition."""
        verifier, note, checkpoint, tree = self._open(request.topic, request.partition)
        seen, names = witnessed(tree.folder, self.policy)
        return pb.SignedCheckpoint(
            size=checkpoint.size,
            root=checkpoint.root,
            checkpoint=note,
            public_key=verifier.text(),
            witnessed_checkpoint=seen,
            witnessed_size=parse_checkpoint(split(seen)[0]).size if seen else 0,
            witnesses=names,
            witnesses_needed=self.policy.needed,
        )

    def file(self, tree_id: str, path: str) -> pb.TreeFile:
        """A file of a tree as C2SP tlog-tiles serves it."""
        topic, partition = tree_named(tree_id)
        _, note, _, tree = self._open(topic, partition)
        if path == CHECKPOINT_FILE:
            return pb.TreeFile(content=(published(tree.folder) or note).encode())
        place = parse_tile_path(path)
        content = None
        if place is not None and not pruned(tree.folder, *place):
            content = tree.file(*place)
        if content is None:
            told = f"no file {path[:64]!r} in the tree of {tree.size} leaves"
            raise Rejected(Code.NOT_FOUND, told, "path")
        return pb.TreeFile(content=content, immutable=True)

    def consistency(self, request: pb.CheckConsistencyRequest) -> pb.ConsistencyProof:
        """The proof that the tree of `size` leaves is the beginning of the latest one."""
        _, note, checkpoint, tree = self._open(request.topic, request.partition)
        if request.size > checkpoint.size:
            raise Rejected(
                Code.FAILED_PRECONDITION,
                f"size is {request.size}, the tree has only {checkpoint.size} signed leaves: a "
                "checkpoint of that size is not of this tree",
                "size",
            )
        return pb.ConsistencyProof(
            old_size=request.size,
            old_root=tree.root(request.size),
            new_size=checkpoint.size,
            new_root=checkpoint.root,
            path=consistency_proof(request.size, checkpoint.size, tree.node),
            checkpoint=note,
        )

    def inclusion(self, request: pb.GetProofRequest) -> pb.EventProof:
        """The proof that the record at a position stands in the tree."""
        return self.proved(request.topic, request.partition, [request.offset])[0]

    def proved(self, topic: str, partition: int, offsets: list[int]) -> list[pb.EventProof]:
        """The proofs of records of one partition; raises Rejected for one that is not signed."""
        verifier, note, checkpoint, tree = self._open(topic, partition)
        seen, _ = witnessed(tree.folder, self.policy)
        if seen and parse_checkpoint(split(seen)[0]).size == checkpoint.size:
            note = seen
        found = []
        for offset in offsets:
            index = index_of(tree, offset)
            if index is None:
                raise Rejected(
                    Code.NOT_FOUND,
                    f"offset {offset} of {topic}/{partition} is not signed: the tree has "
                    f"{checkpoint.size} leaves",
                    "offset",
                )
            place = (topic, partition, offset)
            found.append(self._proof(tree, index, place, note, verifier))
        return found

    def _proof(
        self, tree: Tiles, index: int, place: tuple[str, int, int], note: str, verifier: Verifier
    ) -> pb.EventProof:
        leaf, path = tree.entry(index), inclusion_proof(index, tree.size, tree.node)
        topic, partition, offset = place
        return pb.EventProof(
            position=common_pb2.Position(
                topic=topic,
                partition=partition,
                offset=offset,
                incarnation=unpack(leaf).incarnation,
            ),
            index=index,
            leaf=leaf,
            path=path,
            checkpoint=note,
            public_key=verifier.text(),
            tlog_proof=Proof(leaf, index, tuple(path), note).text(),
        )

    def places(self) -> list[Place]:
        """All trees at their latest signed size, sorted."""
        found = []
        for folder in self.folder.glob("*-*"):
            topic, _, partition = folder.name.rpartition("-")
            if topic and partition.isdigit() and newest_tree(self.folder, topic, int(partition)):
                place = self.place(topic, int(partition))
                if place is not None:
                    found.append(place)
        return sorted(found)

    def place(self, topic: str, partition: int, size: int = 0) -> Place | None:
        """A tree at a size, its latest unless given; None where it has no leaf."""
        try:
            _, _, checkpoint, tree = self._open(topic, partition)
        except Rejected:
            return None
        size = size or checkpoint.size
        if not 0 < size <= checkpoint.size:
            told = f"{topic}/{partition} has {checkpoint.size} signed leaves, the cut says {size}"
            raise Rejected(Code.FAILED_PRECONDITION, told, "cut")
        return Place(topic, partition, size, unpack(tree.entry(size - 1)).offset)

    def at(self, place: Place) -> tuple[Tiles, str]:
        """A tree as it was at an earlier size, and the notary's note of it.

        The note is made anew, byte for byte: only after its root is proved to lead to the root
        that was signed last, so that no damage of the files can make the notary contradict itself.
        """
        _, _, newest, tree = self._open(place.topic, place.partition)
        root = tree.root(place.size)
        path = consistency_proof(place.size, newest.size, tree.node)
        if not verify_consistency(place.size, newest.size, path, root, newest.root):
            told = f"the stored tree of {place.topic}/{place.partition} is not what was signed"
            raise Rejected(Code.FAILED_PRECONDITION, told)
        return tree, self.signer().sign(Checkpoint(newest.origin, place.size, root))

    def signer(self) -> Signer:
        """The notary's key, which this process has because it is the notary."""
        return load_signer(self.public_key.parent, self.verifier().name)

    def verifier(self) -> Verifier:
        """The notary's public key."""
        return Verifier.parse(self.public_key.read_text())

    def _open(self, topic: str, partition: int) -> tuple[Verifier, str, Checkpoint, Tiles]:
        folder = newest_tree(self.folder, topic, partition)
        if folder is None or not (folder / CHECKPOINT_FILE).exists():
            raise Rejected(Code.NOT_FOUND, f"{topic}/{partition} has no signed checkpoint", "topic")
        note = read_bounded(folder / CHECKPOINT_FILE, NOTE_BYTES_MAX).decode()
        verifier = self.verifier()
        checkpoint = verifier.open(note)
        return verifier, note, checkpoint, Tiles(folder, checkpoint.size)


def tree_named(tree_id: str) -> tuple[str, int]:
    """Topic and partition of a tree's name."""
    topic, _, partition = tree_id.rpartition("-")
    return topic, int(partition)


def pruned(folder: Path, level: str, number: int, width: int) -> bool:
    """Whether a full tile ends at or below the minimum index, so that it is not served any more."""
    try:
        minimum = int((folder / MINIMUM_FILE).read_text())
    except FileNotFoundError:
        return False
    height = 0 if level == "entries" else int(level)
    return width == WIDTH and (number + 1) * WIDTH ** (height + 1) <= minimum


def index_of(tree: Tiles, offset: int) -> int | None:
    """The leaf of an offset, found by halving: offsets rise and may be sparse."""
    low, high = 0, tree.size
    if offset < high and unpack(tree.entry(offset)).offset == offset:
        # Nearly always: no offset was skipped yet.
        return offset
    while low < high:
        middle = (low + high) // 2
        if unpack(tree.entry(middle)).offset < offset:
            low = middle + 1
        else:
            high = middle
    return low if low < tree.size and unpack(tree.entry(low)).offset == offset else None
