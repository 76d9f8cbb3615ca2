"""The notary of one partition: keeps its hash tree and signs checkpoints of it.

1. It follows the log like any reader: every judged record, void ones included, becomes a leaf.
2. It signs only what is durable: the tree's files first, then the signed size and root, and only
   then does the signature leave the process. So two signed checkpoints never contradict.
3. It resumes from a base before the last signed record and compares what it reads again with the
   signed leaves. A difference, or a log that ends below the signed size, means that the log went
   backwards: it stops loudly and signs nothing.
4. Another incarnation of a log is another origin, with a tree of its own. It begins with the leaves
   that both share, as they were, so that a consistency proof leads from the old tree to the new.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from . import regular
from .judge import START, Base, Kind, Verdict
from .leaf import leaf_of, topic_digest, unpack
from .note import SIZE_MAX, Checkpoint, Signer
from .tiles import DamagedTree, GrowingTiles, Tiles, sync_folder

SIGNED_FILE = "signed.json"
SIGNED_BYTES_MAX = 65_536
CHECKPOINT_FILE = "checkpoint"


class Contradiction(Exception):
    """The log says something else than what was signed; names the partition and the offset."""


@dataclass(frozen=True, slots=True)
class Signed:
    """What a notary last signed, and from where it reads again."""

    size: int = 0
    root: str = ""
    last_offset: int = -1
    base: Base = START
    base_size: int = 0
    """Leaves before the base."""


@dataclass(frozen=True, slots=True)
class Place:
    """A command's boundary and how many leaves stand before it."""

    base: Base
    size: int


def tree_folder(top: Path, topic: str, partition: int, incarnation: int = 0) -> Path:
    """Where the tree of a partition lies."""
    return top / f"{topic}-{partition}" / str(incarnation)


def newest_tree(top: Path, topic: str, partition: int) -> Path | None:
    """The folder of a partition's latest incarnation, or None."""
    folder = top / f"{topic}-{partition}"
    if not folder.is_dir():
        return None
    names = (path.name for path in folder.iterdir())
    numbers = [int(name) for name in names if name.isascii() and name.isdigit()]
    return folder / str(max(numbers)) if numbers else None


def newest_incarnation(top: Path, topic: str, partition: int) -> int:
    """The latest incarnation that a partition has a tree of; 0 where it has none."""
    folder = newest_tree(top, topic, partition)
    return int(folder.name) if folder else 0


def origin_of(name: str, topic: str, partition: int, incarnation: int = 0) -> str:
    """The origin line of a partition's checkpoints."""
    return f"{name}/{topic}/{partition}/{incarnation}"


class Notary:
    """Appends leaves and seals them; `resume` is where its reader must start."""

    def __init__(
        self, top: Path, topic: str, partition: int, signer: Signer, incarnation: int = 0
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.incarnation = incarnation
        self.folder = tree_folder(top, topic, partition, incarnation)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._signer = signer
        self._topic_digest = topic_digest(topic)
        self.signed = load_signed(self.folder)
        self._tree = GrowingTiles(self.folder, self.signed.size)
        if self.signed.size and self._tree.current_root().hex() != self.signed.root:
            raise Contradiction(f"{self.name}: {self.folder} has another root than was signed")
        self._past = Tiles(self.folder, self.signed.size)
        self._read = self.signed.base_size
        self._current = self.signed.base.incarnation
        """The incarnation in force: a restored log's tree begins with leaves of earlier ones."""
        self._last_offset = self.signed.base.offset - 1
        self._place = self._place_before = Place(self.signed.base, self.signed.base_size)

    @property
    def name(self) -> str:
        """The partition as messages name it."""
        return f"{self.topic}-{self.partition}"

    @property
    def resume(self) -> Base:
        """Where the reader must start."""
        return self.signed.base

    @property
    def size(self) -> int:
        """Leaves so far, unsigned ones included."""
        return self._tree.size

    @property
    def grown(self) -> bool:
        """True when there is something new to sign."""
        return self._tree.size > self.signed.size

    def check_end(self, end_offset: int) -> None:
        """Refuse to go on where the log ends below what was signed."""
        if end_offset <= self.signed.last_offset:
            raise Contradiction(
                f"{self.name}: the log ends at offset {end_offset}, but offset "
                f"{self.signed.last_offset} was signed: the log went backwards"
            )

    def append(self, offset: int, time_ms: int, verdict: Verdict) -> None:
        """Take the next record of the log."""
        if offset <= self._last_offset:
            raise Contradiction(
                f"{self.name}: offset {offset} after offset {self._last_offset}: not in order"
            )
        if verdict.kind == Kind.MARKER and verdict.stamp is not None:
            self._current = verdict.stamp.incarnation
        leaf = leaf_of(
            self._topic_digest, self.partition, self._current, offset, time_ms, verdict
        ).pack()
        if self._read < self.signed.size:
            self._compare(offset, leaf)
        else:
            self._tree.append(leaf)
        self._read += 1
        self._last_offset = offset
        if verdict.closes and verdict.stamp is not None:
            stamp = verdict.stamp
            after = Base(
                self._current,
                offset + 1,
                stamp.epoch,
                stamp.claim,
                stamp.n,
                verdict.chain,
                time_ms,
            )
            self._place_before, self._place = self._place, Place(after, self._read)

    def seal(self) -> str:
        """Make the leaves durable, store the new size and root durably, and give the signed note.

        May be called again after a crash or a failed publication: the note is then the same.
        """
        checkpoint = self._checkpoint()
        if self.grown:
            self._tree.flush()
            self.signed = Signed(
                size=checkpoint.size,
                root=checkpoint.root.hex(),
                last_offset=self._last_offset,
                # One command back: whoever resumes reads at least one signed record again.
                base=self._place_before.base,
                base_size=self._place_before.size,
            )
            store_signed(self.folder, self.signed)
            self._tree.drop_partial()
        note = self._signer.sign(checkpoint)
        replace_durably(self.folder / CHECKPOINT_FILE, note.encode())
        return note

    def _checkpoint(self) -> Checkpoint:
        origin = origin_of(self._signer.verifier.name, self.topic, self.partition, self.incarnation)
        return Checkpoint(origin, self._tree.size, self._tree.current_root())

    def _compare(self, offset: int, leaf: bytes) -> None:
        signed = self._past.entry(self._read)
        if signed != leaf:
            expected = unpack(signed)
            raise Contradiction(
                f"{self.name}: offset {offset} is not what was signed for offset "
                f"{expected.offset}: the log went backwards or was changed"
            )


def load_signed(folder: Path) -> Signed:
    """What was last signed here; the empty tree when nothing was."""
    path = folder / SIGNED_FILE
    try:
        stored = json.loads(regular.read(path, SIGNED_BYTES_MAX))
        signed = Signed(
            size=int(stored["size"]),
            root=str(stored["root"]),
            last_offset=int(stored["last_offset"]),
            base=Base.parse(stored["base"]),
            base_size=int(stored["base_size"]),
        )
        if not 0 <= signed.base_size <= signed.size <= SIZE_MAX:
            raise ValueError(f"{signed.base_size} of {signed.size} leaves")
    except FileNotFoundError:
        return Signed()
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DamagedTree(f"{path} is not what a notary writes: {error}") from error
    return signed


def store_signed(folder: Path, signed: Signed) -> None:
    """Write down, durably, what is about to be signed."""
    content = {
        "size": signed.size,
        "root": signed.root,
        "last_offset": signed.last_offset,
        "base": signed.base.text(),
        "base_size": signed.base_size,
    }
    replace_durably(folder / SIGNED_FILE, json.dumps(content).encode())


def replace_durably(path: Path, content: bytes) -> None:
    """Put a file in place whole, with its name, before returning."""
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)
