"""Answers from the signed trees: checkpoints, inclusion and consistency proofs.

Nothing here is trusted by who verifies: the signature and the hashes speak for themselves.
"""

from pathlib import Path

from loom.decider import Code, Rejected
from loom.log.leaf import unpack
from loom.log.merkle import consistency_proof, inclusion_proof
from loom.log.notary import CHECKPOINT_FILE, newest_tree
from loom.log.note import Checkpoint, Verifier
from loom.log.tiles import Tiles, read_bounded
from loom.v1 import common_pb2
from loom.v1 import loomdb_pb2 as pb

__all__ = ["Trees"]

NOTE_BYTES_MAX = 65_536


class Trees:
    """The trees in a folder, and the key that signs them. Reads files: call it in a thread."""

    def __init__(self, folder: Path, public_key: Path) -> None:
        self.folder = folder
        self.public_key = public_key

    def checkpoint(self, request: pb.GetCheckpointRequest) -> pb.SignedCheckpoint:
        """The latest checkpoint of a partition."""
        verifier, note, checkpoint, _ = self._open(request.topic, request.partition)
        return pb.SignedCheckpoint(
            size=checkpoint.size,
            root=checkpoint.root,
            checkpoint=note,
            public_key=verifier.text(),
        )

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
        verifier, note, checkpoint, tree = self._open(request.topic, request.partition)
        index = index_of(tree, request.offset)
        if index is None:
            raise Rejected(
                Code.NOT_FOUND,
                f"offset {request.offset} of {request.topic}/{request.partition} is not signed: "
                f"the tree has {checkpoint.size} leaves",
                "offset",
            )
        leaf = tree.entry(index)
        return pb.EventProof(
            position=common_pb2.Position(
                topic=request.topic,
                partition=request.partition,
                offset=request.offset,
                incarnation=unpack(leaf).incarnation,
            ),
            index=index,
            leaf=leaf,
            path=inclusion_proof(index, checkpoint.size, tree.node),
            checkpoint=note,
            public_key=verifier.text(),
        )

    def _open(self, topic: str, partition: int) -> tuple[Verifier, str, Checkpoint, Tiles]:
        folder = newest_tree(self.folder, topic, partition)
        if folder is None or not (folder / CHECKPOINT_FILE).exists():
            raise Rejected(Code.NOT_FOUND, f"{topic}/{partition} has no signed checkpoint", "topic")
        note = read_bounded(folder / CHECKPOINT_FILE, NOTE_BYTES_MAX).decode()
        verifier = Verifier.parse(self.public_key.read_text())
        checkpoint = verifier.open(note)
        return verifier, note, checkpoint, Tiles(folder, checkpoint.size)


def index_of(tree: Tiles, offset: int) -> int | None:
    """The leaf of an offset, found by halving: offsets rise and may be sparse."""
    low, high = 0, tree.size
    while low < high:
        middle = (low + high) // 2
        if unpack(tree.entry(middle)).offset < offset:
            low = middle + 1
        else:
            high = middle
    return low if low < tree.size and unpack(tree.entry(low)).offset == offset else None
