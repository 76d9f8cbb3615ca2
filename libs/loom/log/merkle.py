"""The RFC 6962 hash tree: roots, proofs and their verification, without any storage.

1. leaf = SHA-256(0x00 ‖ data), node = SHA-256(0x01 ‖ left ‖ right), empty tree = SHA-256("").
2. Only complete subtrees are ever asked for: `Node(level, index)` is the hash over the leaves
   `index * 2**level` up to `(index + 1) * 2**level`, so what is stored never changes.
3. Verification never raises on hostile proofs: it answers False.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

EMPTY_ROOT = sha256().digest()
HASH_BYTES = 32

Node = Callable[[int, int], bytes]
"""(level, index) → hash of that complete subtree."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def subtrees(start: int, end: int) -> list[tuple[int, int]]:
    """The complete subtrees (level, index) that cover the leaves start..end, left to right.

    `start` must be a multiple of the largest power of two that is not above `end - start`.
    """
    cover = []
    while start < end:
        level = (end - start).bit_length() - 1
        cover.append((level, start >> level))
        start += 1 << level
    return cover


def join(hashes: Sequence[bytes]) -> bytes:
    """The hash over complete subtrees that stand in falling order of size."""
    if not hashes:
        return EMPTY_ROOT
    joined = hashes[-1]
    for left in reversed(hashes[:-1]):
        joined = node_hash(left, joined)
    return joined


def root(size: int, node: Node) -> bytes:
    """The root of the tree's first `size` leaves."""
    return join([node(level, index) for level, index in subtrees(0, size)])


class Frontier:
    """A tree that keeps only its O(log n) complete subtrees: enough to append and give the root."""

    def __init__(self) -> None:
        self.size = 0
        self._hashes: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add one leaf, given by its hash."""
        ends = self.size
        self.size += 1
        while ends & 1:
            leaf = node_hash(self._hashes.pop(), leaf)
            ends >>= 1
        self._hashes.append(leaf)

    def root(self) -> bytes:
        """The root over all leaves so far."""
        return join(self._hashes)


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """The audit path of leaf `index` in the tree of `size` leaves (RFC 6962, 2.1.1)."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size} leaves")
    path = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_span(middle, end, node))
            end = middle
        else:
            path.append(_span(start, middle, node))
            start = middle
    path.reverse()
    return path


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """The proof that the first `old` leaves of the tree of `new` leaves are unchanged (2.1.2)."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves has no earlier tree of {old}")
    if old in (0, new):
        return []
    path = []
    start, end = 0, new
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_span(middle, end, node))
            end = middle
        else:
            path.append(_span(start, middle, node))
            start = middle
    if start > 0:
        path.append(_span(start, end, node))
    path.reverse()
    return path


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], root_hash: bytes
) -> bool:
    """Whether the path proves that the leaf (its hash) is number `index` of the tree."""
    if not 0 <= index < size:
        return False
    place, last, joined = index, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            joined = node_hash(step, joined)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            joined = node_hash(joined, step)
        place >>= 1
        last >>= 1
    return last == 0 and joined == root_hash


def verify_consistency(
    old: int, new: int, path: Sequence[bytes], old_root: bytes, new_root: bytes
) -> bool:
    """Whether the path proves that the old tree is a prefix of the new one."""
    if not 0 <= old <= new:
        return False
    if old in (0, new):
        expected = EMPTY_ROOT if old == 0 else new_root
        return not path and old_root == expected
    steps = list(path)
    if old & (old - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place >>= 1
        last >>= 1
    before = after = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            before, after = node_hash(step, before), node_hash(step, after)
            while not place & 1 and place:
                place >>= 1
                last >>= 1
        else:
            after = node_hash(after, step)
        place >>= 1
        last >>= 1
    return last == 0 and before == old_root and after == new_root


def _split(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def _span(start: int, end: int, node: Node) -> bytes:
    return join([node(level, index) for level, index in subtrees(start, end)])
