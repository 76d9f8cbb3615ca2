"""Opens the trees of a folder, whatever state they are in: a broken one costs no other its verdict.

1. A tree that cannot be opened is a fault of its own partition, and so is one whose checkpoint went
   while what a notary writes beside it is there.
2. A partition that has records but no tree is named: nothing vouches for it.
"""

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .deletions import TOPIC
from .findings import Fault, Kind, Report
from .notary import CHECKPOINT_FILE, SIGNED_FILE, origin_of
from .note import Checkpoint, InvalidNote, Verifier
from .segments import SEGMENT
from .tiles import DamagedTree, Tiles, read_bounded
from .topics import TOPICS

__all__ = ["Sealed", "heard_first", "open_tree", "open_trees", "survey", "unvouched"]

NOTE_BYTES_MAX = 65_536
NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
SEALING_S = 1.0
"""A notary's first checkpoint follows what it writes beside it within less."""


class Sealed(NamedTuple):
    """A partition's tree, with the checkpoint that vouches for it."""

    topic: str
    partition: int
    incarnation: int
    tree: Tiles
    checkpoint: Checkpoint


def open_tree(folder: Path, verifier: Verifier) -> Sealed:
    """The tree in `<top>/<topic>-<partition>/<incarnation>`; raises InvalidNote, DamagedTree."""
    topic, _, partition = folder.parent.name.rpartition("-")
    if not topic or not (NUMBER.fullmatch(partition) and NUMBER.fullmatch(folder.name)):
        raise DamagedTree(f"{folder} is not named <topic>-<partition>/<incarnation>")
    try:
        note = read_bounded(folder / CHECKPOINT_FILE, NOTE_BYTES_MAX).decode()
    except FileNotFoundError as error:
        raise DamagedTree(f"{folder} has no checkpoint") from error
    except UnicodeDecodeError as error:
        raise DamagedTree(f"{folder} has no readable checkpoint: {error}") from error
    try:
        checkpoint = verifier.open(note)
    except InvalidNote as error:
        raise InvalidNote(f"{folder.parent.name}/{folder.name}: {error}") from error
    expected = origin_of(verifier.name, topic, int(partition), int(folder.name))
    if checkpoint.origin != expected:
        raise InvalidNote(f"the checkpoint is of {checkpoint.origin!r}, not of {expected!r}")
    tree = Tiles(folder, checkpoint.size)
    return Sealed(topic, int(partition), int(folder.name), tree, checkpoint)


def open_trees(top: Path, verifier: Verifier) -> list[Sealed]:
    """Each partition's newest tree, sorted; raises InvalidNote or DamagedTree for a bad one."""
    return [open_tree(folder, verifier) for folder in newest_folders(top)]


def newest_folders(top: Path) -> list[Path]:
    """Where each partition's newest tree lies, or should: what a notary writes beside it counts.

    A restored log's older trees speak of records that were lost; the newest begins with the rest.
    """
    written = (CHECKPOINT_FILE, SIGNED_FILE)
    found = {path.parent for name in written for path in top.glob(f"*/*/{name}")}
    newest: dict[Path, Path] = {}
    for folder in sorted(found, key=lambda one: (one.parent, len(one.name), one.name)):
        newest[folder.parent] = folder
    return list(newest.values())


def heard_first(trees: Iterable[Sealed]) -> list[Sealed]:
    """The trees in the order in which they are compared: first what tells of deletions."""
    return sorted(trees, key=lambda one: one.topic != TOPIC)


def survey(top: Path, verifier: Verifier) -> tuple[list[Sealed], list[Report]]:
    """Each partition's newest tree, and a report on each that cannot be opened."""
    opened, broken = [], []
    for folder in newest_folders(top):
        try:
            opened.append(open_at_last(folder, verifier))
        except (DamagedTree, InvalidNote) as error:
            topic, _, partition = folder.parent.name.rpartition("-")
            number = int(partition) if partition.isascii() and partition.isdigit() else -1
            fault = Fault(topic, number, 0, -1, Kind.TREE, str(error))
            broken.append(Report(topic, number, 0, 0, 0, (fault,)))
    return opened, broken


def open_at_last(folder: Path, verifier: Verifier) -> Sealed:
    """A tree, also one that is just being signed for the first time."""
    try:
        return open_tree(folder, verifier)
    except DamagedTree:
        if (folder / CHECKPOINT_FILE).exists():
            raise
        time.sleep(SEALING_S)
        return open_tree(folder, verifier)


def unvouched(log_dir: Path, reports: list[Report]) -> list[str]:
    """The partitions of a copy of the log that hold something, and that no report speaks of."""
    known = {f"{report.topic}-{report.partition}" for report in reports}
    judged = {topic.name for topic in TOPICS if topic.judged}
    return sorted(
        folder.name
        for folder in log_dir.iterdir()
        if folder.name.rpartition("-")[0] in judged
        and folder.name not in known
        and folder.is_dir()
        and any(SEGMENT.fullmatch(one.name) and one.stat().st_size for one in folder.iterdir())
    )
