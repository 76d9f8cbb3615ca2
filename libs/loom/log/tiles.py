"""A Merkle tree on disk in the C2SP tlog-tiles layout: one folder, static files, safe to serve.

1. `tile/<L>/<N>[.p/<W>]` holds up to 256 hashes of height 8·L; `tile/entries/<N>[.p/<W>]` the
   leaves' own bytes, each after its length (uint16). N is written in groups of three digits.
2. A file's content never changes: a tile that grows gets a new name (`.p/<W>`), and the partial
   ones go only after the full one is on disk.
3. `flush` returns when everything appended so far would survive a power loss.
4. What lies beyond the size given at the start is ignored and written anew: the size that counts
   is the one that was signed.
"""

import os
import re
from collections import OrderedDict
from pathlib import Path

from . import regular
from .merkle import HASH_BYTES, join, leaf_hash, node_hash, root, subtrees

WIDTH = 256
ENTRY_BYTES_MAX = 65_535
CACHED_TILES = 256
CACHED_BUNDLES = 16
CACHED_ROWS = 64
SYNCED_ONE_BY_ONE_MAX = 32

PATH = re.compile(
    r"tile/(?P<level>entries|0|[1-9]|[1-5][0-9]|6[0-3])"
    r"/(?P<number>(x[0-9]{3}/){0,5}[0-9]{3})(\.p/(?P<width>[1-9][0-9]{0,2}))?"
)

Place = tuple[str, int]
"""(level or `entries`, number)"""


class DamagedTree(Exception):
    """Files of the tree are missing or have another size than they must."""


def tile_path(level: str, number: int, width: int = WIDTH) -> str:
    """The tile's path under the tree's folder, e.g. `tile/0/x001/067.p/5`."""
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])
    return f"tile/{level}/{path}" + ("" if width == WIDTH else f".p/{width}")


def parse_tile_path(path: str) -> tuple[str, int, int] | None:
    """Level, number and width of a tile's path, or None where `tile_path` never gives this one."""
    form = PATH.fullmatch(path)
    if form is None:
        return None
    number = int(form["number"].replace("x", "").replace("/", ""))
    width = int(form["width"] or WIDTH)
    place = (form["level"], number, width)
    return place if (width < WIDTH) == bool(form["width"]) and tile_path(*place) == path else None


class Tiles:
    """Reads the tree of `size` leaves in a folder."""

    def __init__(self, folder: Path, size: int = 0) -> None:
        self.folder = folder
        self.size = size
        self._cache: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._bundles: dict[tuple[int, int], list[bytes]] = {}
        self._rows: OrderedDict[tuple[str, int, int], list[list[bytes]]] = OrderedDict()

    def node(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree (merkle.Node)."""
        tile_level, height = divmod(level, 8)
        first = index << height
        number, offset = divmod(first, WIDTH)
        if height == 0:
            tile = self.tile(str(tile_level), number)
            return tile[offset * HASH_BYTES : (offset + 1) * HASH_BYTES]
        return self._inner(str(tile_level), number)[height][offset >> height]

    def _inner(self, level: str, number: int) -> list[list[bytes]]:
        """The hashes of a tile, and those over each complete pair, four, eight … of them."""
        key = (level, number, self._width(level, number))
        rows = self._rows.get(key)
        if rows is None:
            tile = self.tile(level, number)
            row = [tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)]
            rows = [row]
            while len(row) > 1:
                row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row) - 1, 2)]
                rows.append(row)
            self._rows[key] = rows
            while len(self._rows) > CACHED_ROWS:
                self._rows.popitem(last=False)
        else:
            self._rows.move_to_end(key)
        return rows

    def entry(self, index: int) -> bytes:
        """The bytes of one leaf; raises DamagedTree where the tree has none of this index."""
        if not 0 <= index < self.size:
            raise DamagedTree(f"{self.folder} has no leaf {index} at size {self.size}")
        number, place = divmod(index, WIDTH)
        bundle = self.tile("entries", number)
        stride = 2 + int.from_bytes(bundle[:2], "big")
        at = place * stride
        if stride * self._width("entries", number) == len(bundle) and (
            bundle[at : at + 2] == bundle[:2]
        ):
            # Nearly always: all leaves of a log are of one size.
            return bundle[at + 2 : at + stride]
        return self.entries(number)[place]

    def entries(self, number: int) -> list[bytes]:
        """All leaves of one bundle; raises DamagedTree when their lengths do not add up."""
        width = self._width("entries", number)
        bundle = self._bundles.get((number, width))
        if bundle is None:
            bundle = split_entries(self.tile("entries", number))
            if len(self._bundles) >= CACHED_BUNDLES:
                self._bundles.clear()
            self._bundles[number, width] = bundle
        return bundle

    def file(self, level: str, number: int, width: int) -> bytes | None:
        """A tile or bundle as it is served, or None where the tree is not that large."""
        count = self.size if level == "entries" else self.size >> (8 * int(level))
        if number * WIDTH + width > count:
            return None
        return self._read(level, number, width, self._width(level, number))

    def root(self, size: int | None = None) -> bytes:
        """The root over the first `size` leaves (all of them unless given)."""
        return root(self.size if size is None else size, self.node)

    def _width(self, level: str, number: int) -> int:
        count = self.size if level == "entries" else self.size >> (8 * int(level))
        return min(WIDTH, count - number * WIDTH)

    def tile(self, level: str, number: int) -> bytes:
        """A tile or bundle as it is at the tree's size; raises DamagedTree."""
        width = self._width(level, number)
        if number < 0 or width <= 0:
            raise DamagedTree(f"{self.folder} has no tile {level}/{number} at size {self.size}")
        key = (level, number, width)
        content = self._cache.get(key)
        if content is None:
            content = self._cache[key] = self._read(level, number, width)
            while len(self._cache) > CACHED_TILES:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(key)
        return content

    def _read(self, level: str, number: int, width: int, largest: int = WIDTH) -> bytes:
        """The tile as it was at `width`: its own file, or the start of the largest one."""
        unit = HASH_BYTES if level != "entries" else ENTRY_BYTES_MAX + 2
        try:
            content = read_bounded(self.folder / tile_path(level, number, width), width * unit)
        except FileNotFoundError:
            if width >= largest:
                path = tile_path(level, number, width)
                raise DamagedTree(f"{self.folder} lacks {path}") from None
            whole = self._read(level, number, largest)
            if level != "entries":
                return whole[: width * HASH_BYTES]
            return join_entries(split_entries(whole)[:width])
        count = count_entries(content) if level == "entries" else len(content) / HASH_BYTES
        if count != width:
            path = tile_path(level, number, width)
            raise DamagedTree(f"{self.folder}/{path} does not hold {width} hashes as it must")
        return content


class GrowingTiles(Tiles):
    """A tree that grows: appended leaves are kept in memory until `flush`."""

    def __init__(self, folder: Path, size: int = 0) -> None:
        super().__init__(folder, size)
        self._open: list[list[bytes]] = []
        self._entries: list[bytes] = []
        self._full: dict[Place, bytes] = {}
        self._grown: list[Place] = []
        self._load()

    def append(self, entry: bytes) -> None:
        """Add one leaf, given by its bytes."""
        if len(entry) > ENTRY_BYTES_MAX:
            raise ValueError(f"a leaf has at most {ENTRY_BYTES_MAX} bytes, this one {len(entry)}")
        self._entries.append(entry)
        self._open[0].append(leaf_hash(entry))
        self.size += 1
        if len(self._entries) == WIDTH:
            self._close()

    def current_root(self) -> bytes:
        """The root over all leaves, those not flushed included; reads no file."""
        hashes: list[bytes] = []
        for hashes_at_level in reversed(self._open):
            for level, index in subtrees(0, len(hashes_at_level)):
                first = index << level
                hashes.append(perfect_root(hashes_at_level[first : first + (1 << level)]))
        return join(hashes)

    def flush(self) -> None:
        """Make every appended leaf durable."""
        files = dict(self._full)
        written = {(*place, WIDTH): content for place, content in files.items()}
        if self._entries:
            written["entries", self.size // WIDTH, len(self._entries)] = join_entries(self._entries)
        for level, hashes in enumerate(self._open):
            if hashes:
                number = (self.size >> (8 * level)) // WIDTH
                written[str(level), number, len(hashes)] = b"".join(hashes)
        paths = []
        for (level, number, width), content in written.items():
            path = self.folder / tile_path(level, number, width)
            if width == WIDTH or not path.exists() or path.read_bytes() != content:
                write_whole(path, content)
                paths.append(path)
        sync_files(paths, self.folder)
        self._grown.extend(files)
        self._full.clear()

    def drop_partial(self) -> None:
        """Remove the partial tiles whose full ones are on disk; only after the size was signed."""
        for level, number in self._grown:
            folder = self.folder / (tile_path(level, number) + ".p")
            if folder.is_dir():
                for partial in folder.iterdir():
                    partial.unlink()
                folder.rmdir()
        self._grown.clear()

    def _load(self) -> None:
        level = 0
        while level == 0 or self.size >> (8 * level):
            number, width = divmod(self.size >> (8 * level), WIDTH)
            tile = self._read(str(level), number, width) if width else b""
            self._open.append([tile[at : at + 32] for at in range(0, len(tile), 32)])
            level += 1
        number, width = divmod(self.size, WIDTH)
        self._entries = split_entries(self._read("entries", number, width)) if width else []

    def _close(self) -> None:
        """Move full tiles out of memory and their roots one level up."""
        self._full["entries", self.size // WIDTH - 1] = join_entries(self._entries)
        self._entries = []
        level = 0
        while len(self._open[level]) == WIDTH:
            number = (self.size >> (8 * level)) // WIDTH - 1
            self._full[str(level), number] = b"".join(self._open[level])
            if level + 1 == len(self._open):
                self._open.append([])
            self._open[level + 1].append(perfect_root(self._open[level]))
            self._open[level] = []
            level += 1


def read_bounded(path: Path, bytes_max: int) -> bytes:
    """A file of at most so many bytes; FileNotFoundError where there is none."""
    try:
        return regular.read(path, bytes_max)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedTree(f"{path} cannot be read: {error.strerror}") from error


def perfect_root(hashes: list[bytes]) -> bytes:
    """The root over 2**n hashes."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]
    return hashes[0]


def join_entries(entries: list[bytes]) -> bytes:
    """An entry bundle: each leaf after its length."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def count_entries(bundle: bytes) -> int:
    """How many leaves a bundle holds; raises DamagedTree when the lengths do not add up."""
    stride = 2 + int.from_bytes(bundle[:2], "big")
    count, rest = divmod(len(bundle), stride)
    heads = (bundle[at : at + 2] for at in range(0, len(bundle), stride))
    if not rest and all(head == bundle[:2] for head in heads):
        return count
    return len(split_entries(bundle))


def split_entries(bundle: bytes) -> list[bytes]:
    """The leaves of an entry bundle; raises DamagedTree when the lengths do not add up."""
    entries, at = [], 0
    while at < len(bundle):
        end = at + 2 + int.from_bytes(bundle[at : at + 2], "big")
        if end > len(bundle):
            raise DamagedTree("an entry bundle ends inside a leaf")
        entries.append(bundle[at + 2 : end])
        at = end
    return entries


def write_whole(path: Path, content: bytes) -> None:
    """Put a file in place whole; durable only after `sync_files`."""
    fresh = f"{path}.new"
    try:
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    with os.fdopen(handle, "wb", buffering=0) as file:
        file.write(content)
    os.replace(fresh, path)  # noqa: PTH105 - a path object a file costs more than the file


def sync_files(paths: list[Path], top: Path) -> None:
    """Make files and their names durable, up to and including the folder `top`."""
    if len(paths) > SYNCED_ONE_BY_ONE_MAX:
        # Catching up writes hundreds of files; one sync of everything is then far cheaper.
        os.sync()
        return
    folders = set()
    for path in paths:
        sync(path, os.O_RDONLY)
        parents = (path.parent, *path.parent.parents)
        folders |= {folder for folder in parents if folder.is_relative_to(top)}
    for folder in folders:
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync(path: Path, flags: int) -> None:
    """Wait until the disk has what was written."""
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
