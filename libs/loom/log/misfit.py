"""Holds a tree's leaves and hashes against each other, and names the offsets of what differs.

1. Every stored hash is checked, also those that the signed root does not need: proofs are made of
   them.
2. A leaf's own offset may be what was changed, so the leaves beside it bound what is named.
"""

from .leaf import Leaf, unpack
from .merkle import HASH_BYTES, leaf_hash
from .tiles import WIDTH, DamagedTree, Tiles, perfect_root

__all__ = ["Misfit", "check_hashes", "checked_leaves"]


class Misfit(Exception):
    """Files of the tree that do not fit each other."""

    def __init__(self, first_offset: int, last_offset: int, what: str) -> None:
        """The offsets between which the wrong leaf, or the leaves under the wrong hash, lie."""
        super().__init__(what)
        self.first_offset = first_offset
        self.last_offset = last_offset


def checked_leaves(tree: Tiles, number: int, before: int) -> list[Leaf]:
    """The leaves of a bundle that follows an offset, each with its stored hash; raises Misfit."""
    leaves: list[Leaf] = []
    first = number * WIDTH
    try:
        entries = tree.entries(number)
        # As it is now: a notary at work may have replaced a partial tile by the whole one.
        stored = tree.tile("0", number)
        for place, entry in enumerate(entries):
            if leaf_hash(entry) != stored[place * HASH_BYTES : (place + 1) * HASH_BYTES]:
                last = offset_behind(tree, first + place, before)
                raise Misfit(before + 1, last, f"leaf {first + place} has not its stored hash")
            leaf = unpack(entry)
            if leaf.offset <= before:
                raise Misfit(leaf.offset, leaf.offset, f"leaf {first + place} is out of place")
            before = leaf.offset
            leaves.append(leaf)
    except (DamagedTree, ValueError) as error:
        last = offset_behind(tree, first + WIDTH - 1, before)
        raise Misfit(before + 1, last, str(error)) from error
    return leaves


def check_hashes(tree: Tiles) -> None:
    """Each hash above the leaves' own is that of the tile below it; raises Misfit."""
    level = 1
    while tree.size >> (8 * level):
        for index in range(tree.size >> (8 * level)):
            try:
                below = tree.tile(str(level - 1), index)
                hashes = [below[at : at + HASH_BYTES] for at in range(0, len(below), HASH_BYTES)]
                fault = "" if tree.node(8 * level, index) == perfect_root(hashes) else "differs"
            except DamagedTree as error:
                fault = str(error)
            if fault:
                ends = index << (8 * level), ((index + 1) << (8 * level)) - 1
                first, last = (unpack(tree.entry(one)).offset for one in ends)
                raise Misfit(first, last, f"hash {index} of level {level}: {fault}")
        level += 1


def offset_behind(tree: Tiles, index: int, before: int) -> int:
    """The last offset that the leaf at `index` can have: the one before the next sound leaf."""
    for following in range(index + 1, min(index + 1 + WIDTH, tree.size)):
        try:
            entry = tree.entry(following)
            if leaf_hash(entry) == tree.node(0, following):
                return max(before + 1, unpack(entry).offset - 1)
        except (DamagedTree, ValueError):
            break
    return before + WIDTH
