"""Bits flipped in copies of what lies on disks: an auditor must name the very place.

1. Of each byte that is flipped it is known beforehand which topic, partition and offsets it speaks
   of: from the frames of Kafka's batches, and from the leaf as it was signed.
2. Only what is signed is damaged: of anything else the auditor says nothing.
"""

import asyncio
import random
import shutil
import struct
from pathlib import Path
from typing import NamedTuple

from loom.log.leaf import LEAF_BYTES, unpack
from loom.log.merkle import HASH_BYTES
from loom.log.note import InvalidNote, Verifier
from loom.log.tiles import WIDTH, DamagedTree, tile_path
from loom.log.verify import Sealed, open_trees, verify_folder
from loomos.cli.chaos.world import RECOVER_SECONDS, TOPIC, World
from loomos.cli.soak.load import Load

__all__ = ["bits_flipped"]

TREE = f"{TOPIC}-0"
KINDS = ("segment", "leaf", "hash", "checkpoint")
SIGNED_MIN = 20
COPIES = 20
FRAME = struct.Struct(">qiiBiHi")
"""Of a batch: base offset, length behind this field, leader's epoch, magic, CRC, attributes, how
far the last offset lies behind the base."""
LENGTH_FROM = 12
EPOCH = range(12, 16)
"""The leader's epoch is the broker's own word: neither its CRC nor the leaf covers it."""


class Flip(NamedTuple):
    """One bit, and the offsets that its byte speaks of; -1 where it speaks of the whole tree."""

    path: Path
    at: int
    first_offset: int = -1
    last_offset: int = -1


async def bits_flipped(made: World, load: Load, chance: random.Random) -> str:
    """One bit of a segment, a leaf, a hash, a checkpoint, each in a copy: its place is named."""
    home = made.stores.home.path
    key = Verifier.parse((home / "credentials" / "loomdb" / "notary.pub").read_text())
    async with asyncio.timeout(RECOVER_SECONDS):
        while signed(home / "trees", key) < SIGNED_MIN:  # noqa: ASYNC110 - another process signs
            await asyncio.sleep(0.2)
    told: list[str] = []
    for kind in ("", *KINDS):
        copy = home / "copy"
        copied(home / "trees" / TREE, copy / "trees" / TREE)
        # The trees first: what is signed is in the log already.
        shutil.copytree(made.stores.broker.folder / "data" / TREE, copy / "log" / TREE)
        (sealed,) = open_trees(copy / "trees", key)
        flip = chosen(kind, sealed, copy / "log" / TREE, chance) if kind else None
        if flip is not None:
            content = bytearray(flip.path.read_bytes())
            content[flip.at] ^= 1 << chance.randrange(8)
            flip.path.write_bytes(content)
        named = await asyncio.to_thread(found, copy, key, flip)
        if flip is None:
            assert not named, f"an untouched copy is said to be damaged: {named}"
        else:
            where = f"{flip.path.relative_to(copy)} at {flip.at} (offset {flip.first_offset})"
            assert named, f"nobody named the bit that was flipped in {where}"
            told.append(f"{where}: {named[:90]}")
        shutil.rmtree(copy)
    return "; ".join(told)


def copied(trees: Path, to: Path) -> None:
    """Copy trees at which a notary is at work: a checkpoint first, then the tiles it speaks of."""
    for _ in range(COPIES):
        shutil.rmtree(to, ignore_errors=True)
        notes = {one.relative_to(trees): one.read_bytes() for one in trees.glob("*/checkpoint")}
        try:
            shutil.copytree(trees, to)
        except (shutil.Error, FileNotFoundError):
            # A file was put in place, or taken away, meanwhile.
            continue
        for name, content in notes.items():
            (to / name).write_bytes(content)
        return
    raise AssertionError(f"{trees} does not stand still for a copy")


def signed(trees: Path, key: Verifier) -> int:
    """How many records of the topic are signed."""
    try:
        return sum(one.tree.size for one in open_trees(trees, key) if one.topic == TOPIC)
    except DamagedTree:
        # The notary is at work.
        return 0


def chosen(kind: str, sealed: Sealed, log: Path, chance: random.Random) -> Flip:
    """A byte of this kind, and what it speaks of."""
    leaf = chance.randrange(sealed.tree.size)
    offset = unpack(sealed.tree.entry(leaf)).offset
    number, place = divmod(leaf, WIDTH)
    match kind:
        case "segment":
            return chance.choice(framed(log, offset))
        case "leaf":
            # Behind the two bytes of its length.
            at = place * (LEAF_BYTES + 2) + 2 + chance.randrange(LEAF_BYTES)
            return Flip(tile(sealed, "entries", number), at, offset, offset)
        case "hash":
            at = place * HASH_BYTES + chance.randrange(HASH_BYTES)
            return Flip(tile(sealed, "0", number), at, offset, offset)
        case _:
            path = sealed.tree.folder / "checkpoint"
            return Flip(path, chance.randrange(path.stat().st_size))


def tile(sealed: Sealed, level: str, number: int) -> Path:
    """The file that an auditor reads a tile from: the whole one where the partial has gone."""
    width = min(WIDTH, sealed.tree.size - number * WIDTH)
    partial = sealed.tree.folder / tile_path(level, number, width)
    return partial if partial.exists() else sealed.tree.folder / tile_path(level, number)


def framed(log: Path, offset: int) -> list[Flip]:
    """Each byte that can be flipped of the batch that holds an offset."""
    path = max(one for one in log.glob("*.log") if int(one.stem) <= offset)
    content = path.read_bytes()
    at = 0
    while True:
        base, length, *_, more = FRAME.unpack_from(content, at)
        end = at + LENGTH_FROM + length
        if base <= offset <= base + more:
            places = (one for one in range(at, end) if one - at not in EPOCH)
            return [Flip(path, place, base, base + more) for place in places]
        at = end


def found(copy: Path, key: Verifier, flip: Flip | None) -> str:
    """What an auditor says of the flip's place, of any where there is no flip; "" for nothing."""
    try:
        reports = [verify_folder(one, copy / "log") for one in open_trees(copy / "trees", key)]
    except (DamagedTree, InvalidNote) as error:
        told = f"{type(error).__name__}: {error}"
        return told if flip is None or (flip.first_offset < 0 and TREE in told) else ""
    return "; ".join(
        fault.text()
        for report in reports
        for fault in report.faults
        if flip is None
        or (
            (fault.topic, fault.partition) == (TOPIC, 0)
            and fault.first_offset <= flip.last_offset
            and fault.last_offset >= flip.first_offset
        )
    )
