"""The tree on disk: tlog-tiles paths, growth over restarts, and damage."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loom.log.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from loom.log.tiles import (
    DamagedTree,
    GrowingTiles,
    Tiles,
    parse_tile_path,
    split_entries,
    tile_path,
)


def entry(index):
    return index.to_bytes(40, "big")


def frontier(size):
    made = Frontier()
    for index in range(size):
        made.append(leaf_hash(entry(index)))
    return made


@pytest.mark.parametrize(
    ("level", "number", "width", "path"),
    [
        ("0", 0, 256, "tile/0/000"),
        ("0", 0, 5, "tile/0/000.p/5"),
        ("1", 1234067, 256, "tile/1/x001/x234/067"),
        ("entries", 1000, 1, "tile/entries/x001/000.p/1"),
    ],
)
def test_tiles_are_named_as_the_specification_says(level, number, width, path):
    assert tile_path(level, number, width) == path


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=5), st.randoms())
def test_a_tree_grown_over_restarts_is_the_tree(tmp_path_factory, steps, chance):
    folder = tmp_path_factory.mktemp("tree")
    size = 0
    for step in steps:
        tree = GrowingTiles(folder, size)
        # What was appended and not flushed is lost with the process.
        for index in range(size, size + chance.randrange(300)):
            tree.append(entry(index))
        tree = GrowingTiles(folder, size)
        for index in range(size, size + step):
            tree.append(entry(index))
        tree.flush()
        old, size = size, size + step
        tree.drop_partial()
        stored = Tiles(folder, size)
        assert stored.root() == tree.current_root() == frontier(size).root()
        assert stored.root(old) == frontier(old).root()
        path = consistency_proof(old, size, stored.node)
        assert verify_consistency(old, size, path, stored.root(old), stored.root())
        index = chance.randrange(size)
        assert stored.entry(index) == entry(index)
        path = inclusion_proof(index, size, stored.node)
        assert verify_inclusion(leaf_hash(entry(index)), index, size, path, stored.root())


def test_a_tree_of_three_levels(tmp_path):
    size = 256 * 256 + 300
    tree = GrowingTiles(tmp_path)
    for index in range(size):
        tree.append(entry(index))
    tree.flush()
    expected = frontier(size).root()
    assert (tmp_path / "tile/2/000.p/1").exists()
    assert GrowingTiles(tmp_path, size).current_root() == expected
    stored = Tiles(tmp_path, size)
    path = inclusion_proof(65_000, size, stored.node)
    assert verify_inclusion(leaf_hash(stored.entry(65_000)), 65_000, size, path, expected)


def test_leaves_flushed_but_never_signed_are_written_anew(tmp_path):
    tree = GrowingTiles(tmp_path)
    for index in range(100):
        tree.append(entry(index))
    tree.flush()
    for _ in range(600):
        tree.append(b"another log")
    tree.flush()
    tree.drop_partial()
    resumed = GrowingTiles(tmp_path, 100)
    for index in range(100, 600):
        resumed.append(entry(index))
    resumed.flush()
    assert Tiles(tmp_path, 600).root() == frontier(600).root()


@pytest.mark.parametrize("damage", [b"", b"x", bytes(32 * 300), bytes(10_000_000)])
def test_damaged_files_are_named(tmp_path, damage):
    tree = GrowingTiles(tmp_path)
    for index in range(300):
        tree.append(entry(index))
    tree.flush()
    for path in ("tile/0/000", "tile/entries/000"):
        whole = (tmp_path / path).read_bytes()
        (tmp_path / path).write_bytes(damage)
        with pytest.raises(DamagedTree):
            Tiles(tmp_path, 300).node(3, 0)
            Tiles(tmp_path, 300).entry(3)
        (tmp_path / path).write_bytes(whole)
    (tmp_path / "tile/0/000").unlink()
    with pytest.raises(DamagedTree, match="lacks tile/0/000"):
        Tiles(tmp_path, 300).node(3, 0)


def test_append_rate(tmp_path, capsys):
    import time

    leaf = random.Random(1).randbytes(105)
    tree = GrowingTiles(tmp_path)
    started = time.perf_counter()
    for _ in range(50_000):
        tree.append(leaf)
    tree.flush()
    rate = 50_000 / (time.perf_counter() - started)
    with capsys.disabled():
        print(f"\nhash tree on disk: {rate:,.0f} leaves/s")


@given(st.sampled_from(["entries", "0", "1", "63"]), st.integers(0, 10**12), st.integers(1, 256))
def test_a_tile_path_names_one_file(level, number, width):
    assert parse_tile_path(tile_path(level, number, width)) == (level, number, width)


@given(st.text(alphabet="tile/x0129.penrs", max_size=40))
def test_other_paths_name_none(path):
    for one in (path, f"tile/{path}", f"tile/0/{path}", f"tile/0/001{path}"):
        place = parse_tile_path(one)
        assert place is None or tile_path(*place) == one


def test_paths_that_are_almost_right_name_none():
    for path in (
        "tile/64/000", "tile/00/000", "tile/0/0", "tile/0/x000/000", "tile/0/000.p/0",
        "tile/0/000.p/256", "tile/0/000.p/05", "tile/0/001/000", "tile/entries", "tile/-1/000",
        "tile/0/../signed.json", "tile/0/x001/x000", "/tile/0/000",
    ):  # fmt: skip
        assert parse_tile_path(path) is None, path


def test_files_are_served_at_every_width_that_was_signed_and_no_more(tmp_path):
    tree = GrowingTiles(tmp_path)
    for number in range(300):
        tree.append(bytes([number % 256]))
    tree.flush()
    served = Tiles(tmp_path, 300)
    assert len(served.file("0", 0, 256)) == 8192
    for width in (1, 7, 44):
        assert len(served.file("0", 1, width)) == 32 * width
        assert len(split_entries(served.file("entries", 1, width))) == width
    assert len(served.file("1", 0, 1)) == 32
    for place in (("0", 1, 45), ("0", 1, 256), ("1", 0, 2), ("2", 0, 1), ("entries", 2, 1)):
        assert served.file(*place) is None
