"""The hash tree against RFC 6962's published vectors, and its proofs against a plain recursion."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.log.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def plain_root(leaves):
    """RFC 6962's definition, word for word."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(plain_root(leaves[:split]), plain_root(leaves[split:]))


def node_of(leaves):
    return lambda level, index: plain_root(leaves[index << level : (index + 1) << level])


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size):
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.append(leaf_hash(leaf))
    assert frontier.root().hex() == ROOTS[size]
    assert root(size, node_of(LEAVES)).hex() == ROOTS[size]


def test_proofs_are_the_published_ones():
    path = [step.hex() for step in inclusion_proof(0, 8, node_of(LEAVES))]
    assert path == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    path = [step.hex() for step in consistency_proof(6, 8, node_of(LEAVES))]
    assert path == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@given(st.lists(st.binary(max_size=4), min_size=1, max_size=70), st.data())
def test_an_inclusion_proof_fits_its_leaf_and_no_other(leaves, data):
    size = len(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = inclusion_proof(index, size, node_of(leaves))
    top = plain_root(leaves)
    assert verify_inclusion(leaf_hash(leaves[index]), index, size, path, top)
    assert not verify_inclusion(leaf_hash(leaves[index] + b"!"), index, size, path, top)
    assert not verify_inclusion(leaf_hash(leaves[index]), index, size, [*path, top], top)
    other = data.draw(st.integers(-1, size + 1).filter(lambda other: other != index))
    assert not verify_inclusion(leaf_hash(leaves[index]), other, size, path, top) or leaf_hash(
        leaves[other]
    ) == leaf_hash(leaves[index])
    for step in range(len(path)):
        bent = [*path[:step], bytes(32), *path[step + 1 :]]
        assert not verify_inclusion(leaf_hash(leaves[index]), index, size, bent, top)


@given(st.lists(st.binary(max_size=4), max_size=70), st.data())
def test_a_consistency_proof_fits_a_prefix_and_nothing_else(leaves, data):
    new = len(leaves)
    old = data.draw(st.integers(0, new))
    path = consistency_proof(old, new, node_of(leaves))
    before, after = plain_root(leaves[:old]), plain_root(leaves)
    assert verify_consistency(old, new, path, before, after)
    assert not verify_consistency(old, new, path, bytes(32), after)
    assert not verify_consistency(old, new, [*path, bytes(32)], before, after)
    if 0 < old < new:
        assert not verify_consistency(old, new, path, before, bytes(32))
        assert not verify_consistency(old, new, path[:-1], before, after)


@given(
    st.integers(-2, 2**64),
    st.integers(-2, 2**64),
    st.lists(st.binary(min_size=32, max_size=32), max_size=5),
)
def test_hostile_proofs_are_answered_with_false(a, b, path):
    assert not verify_inclusion(bytes(32), a, b, path, b"")
    assert not verify_consistency(a, b, path, b"", b"another")


def test_proofs_beyond_the_tree_are_refused():
    with pytest.raises(ValueError, match="leaf 8"):
        inclusion_proof(8, 8, node_of(LEAVES))
    with pytest.raises(ValueError, match="no earlier tree of 9"):
        consistency_proof(9, 8, node_of(LEAVES))
