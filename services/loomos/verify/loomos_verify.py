#!/usr/bin/env python3
"""Verifies an export of a LoomOS log, offline: read this file, then run it with any Python 3.11.

    python -I loomos_verify.py EXPORT [--key VKEY] [--witness VKEY …] [--checkpoint FILE …]
    python -I loomos_verify.py EVENT.tlog-proof --key VKEY
    python -I loomos_verify.py REPORT --key VKEY        (with REPORT.manifest beside it)

It needs nothing but Python's standard library, and believes nothing but the keys it is given.

1. The signature: each checkpoint (a signed note: origin, number of leaves, root of the hash tree)
   is signed with the notary's Ed25519 key. Witnesses that were shown it add theirs, with a time.
2. The tree: the leaves (RFC 6962: SHA-256 over 0x00 and the leaf's bytes, inner nodes over 0x01,
   left, right) give the signed root, and the root of every older checkpoint that somebody kept.
3. The records: SHA-256 over a record's stored bytes is the digest in its leaf. Each record of the
   exported range is there once, in order.
4. Content that is gone: a record without its bytes counts only where an `archive.deleted` event,
   itself proved to stand in the signed tree of `loomos.loomdb`, names it and the policy.
5. The chain: a record names the digest of the record before it and counts on from it, so not even
   who holds the notary's key can leave one out unseen. `Chain` holds these rules.

Layout of an export: `notary.pub`, `export.json`, and for each log `logs/<topic>-<partition>/` with
`checkpoint`, `checkpoints/*`, the tree's files as C2SP tlog-tiles names them (`tile/…`), and
`records`: offset, broker's time, length, then the bytes that the digest is taken over. `deletions/`
has the events that allowed deletions, each as such a record with its proof in a `.tlog-proof` file.
Exit status: 0 all is well, 1 something is wrong (one line for each finding), 2 cannot be verified.
"""

import argparse
import base64
import json
import re
import struct
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256, sha512
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

WIDTH = 256
LEAF = struct.Struct(">BI32sIqqQQ32s")
FRAME = struct.Struct(">qqI")
STAMP = struct.Struct(">BBIQ16sQII32s")
NAME = re.compile(r"[a-z0-9.-]{1,200}-(0|[1-9][0-9]{0,9})")
NOTE_BYTES_MAX = 1 << 20
ABOUT_BYTES_MAX = 16 << 20
REPORT_BYTES_MAX = 512 << 20
TILE_BYTES_MAX = WIDTH * (2 + LEAF.size)
RECORD_BYTES_MAX = 64 << 20
WAITING_MAX = 100_000
FINDINGS_MAX = 1000
LEAF_DIFFERS = "its leaf is not the one that was hashed"
VOID, EVENT, MARKER = 0, 1, 2
LOG_KEY, WITNESS_KEY = 1, 4


class Unusable(Exception):
    """It cannot be verified at all; the message says why."""


RUBBISH = (
    *(Unusable, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RecursionError, MemoryError, struct.error),
)
"""What bytes that are not of their form end in."""


def opened(path: Path) -> BinaryIO:
    """A file; Unusable for what only looks like one and may never end."""
    if not path.is_file():
        raise Unusable(f"{path} is no file")
    return path.open("rb")


def content(path: Path, bytes_max: int = NOTE_BYTES_MAX) -> bytes:
    """What is in a file that may have so many bytes."""
    with opened(path) as file:
        if file.seek(0, 2) > bytes_max:
            raise Unusable(f"{path} has more than the {bytes_max} bytes that it may have")
        file.seek(0)
        return file.read(bytes_max)


def text_of(path: Path) -> str:
    """The text in a file."""
    try:
        return content(path).decode()
    except UnicodeDecodeError as error:
        raise Unusable(f"{path} is no text: {error}") from error


def say(text: str, file: int = 1) -> None:
    """One line; what comes from the export never steers the terminal. 2: to standard error."""
    line = "".join(one if one.isprintable() else "?" for one in text)
    print(line, file=sys.stderr if file == 2 else sys.stdout)


# Ed25519 (RFC 8032, 5.1.7), for checking signatures only: no secret passes through here.
P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)
Point = tuple[int, int, int, int]


def decompressed(data: bytes) -> Point | None:
    """The curve point that 32 bytes name, or None."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & (1 << 255) - 1
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if (v * x * x - u) % P:
        x = x * ROOT_OF_MINUS_1 % P
    if (v * x * x - u) % P or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


def added(a: Point, b: Point) -> Point:
    """The sum of two points in extended coordinates."""
    one, two = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    three, four = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = two - one, four - three, four + three, two + one
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(number: int, point: Point) -> Point:
    """A point added to itself so many times."""
    total: Point = (0, 1, 1, 0)
    while number:
        if number & 1:
            total = added(total, point)
        point = added(point, point)
        number >>= 1
    return total


BASE = decompressed((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def signed_by(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether an Ed25519 signature over a message was made with a key."""
    point, nonce = decompressed(key), decompressed(signature[:32])
    scalar = int.from_bytes(signature[32:], "little")
    if point is None or nonce is None or len(signature) != 64 or scalar >= ORDER:
        return False
    challenge = int.from_bytes(sha512(signature[:32] + key + message).digest(), "little") % ORDER
    assert BASE is not None
    left, right = times(scalar, BASE), added(nonce, times(challenge, point))
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (
        left[1] * right[2] - right[1] * left[2]
    ) % P == 0


class Key(NamedTuple):
    """A public key as `<name>+<id>+<base64>` names it."""

    name: str
    kind: int
    key: bytes

    @property
    def id(self) -> bytes:
        """The four bytes by which a signature line names the key."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.key).digest()[:4]

    @classmethod
    def read(cls, given: str) -> "Key":
        """A key from its line, or from the file that holds it."""
        line = given if given.count("+") > 1 else text_of(Path(given))
        name, _, rest = line.strip().partition("+")
        try:
            data = base64.b64decode(rest.partition("+")[2], validate=True)
        except ValueError:
            data = b""
        key = cls(name, data[0] if data else 0, data[1:])
        if len(data) != 33 or key.id.hex() != rest.partition("+")[0]:
            raise Unusable(f"{given[:100]!r} is no Ed25519 key of the form <name>+<id>+<base64>")
        return key


class Checkpoint(NamedTuple):
    """What a signed note says: this log had this root when it had so many leaves."""

    origin: str
    size: int
    root: bytes
    body: str
    signatures: tuple[tuple[str, bytes], ...]

    @classmethod
    def read(cls, note: str) -> "Checkpoint":
        """The checkpoint of a note, its signatures unchecked."""
        found = cls.read_note(note)
        try:
            origin, size, text, *_ = found.body.split("\n")
            root = base64.b64decode(text, validate=True)
            if not re.fullmatch("0|[1-9][0-9]{0,17}", size) or len(root) != len(sha256().digest()):
                raise ValueError(f"{size[:40]!r} leaves, root {text[:60]!r}")
            return found._replace(origin=origin, size=int(size), root=root)
        except ValueError as error:
            raise Unusable(f"not a checkpoint: {error}") from error

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """The checkpoint in a file, its signatures unchecked."""
        text = text_of(path)
        try:
            return cls.read(text)
        except Unusable as error:
            raise Unusable(f"{path}: {error}") from error

    @classmethod
    def read_note(cls, note: str) -> "Checkpoint":
        """A note that may be of anything, its signatures unchecked."""
        body, _, tail = note.rpartition("\n\n")
        try:
            if not tail.endswith("\n"):
                raise ValueError("it has no end")
            lines = [line.removeprefix("— ").split(" ") for line in tail[:-1].split("\n")]
            signatures = tuple(
                (name, base64.b64decode(data, validate=True)) for name, data in lines
            )
        except ValueError as error:
            raise Unusable(f"not a signed note: {error}") from error
        return cls("", 0, b"", body + "\n", signatures)

    def signed(self, key: Key) -> bool:
        """Whether this key signed it; a witness signs the time it saw it at, too."""
        for name, data in self.signatures:
            if name != key.name or data[:4] != key.id:
                continue
            message, signature = self.body.encode(), data[4:]
            if key.kind == WITNESS_KEY:
                seconds = int.from_bytes(data[4:12], "big")
                message = f"cosignature/v1\ntime {seconds}\n".encode() + message
                signature = data[12:]
            if signed_by(key.key, message, signature):
                return True
        return False


class Finding(NamedTuple):
    """Something that is wrong, and where."""

    log: str
    first_offset: int
    last_offset: int
    what: str
    detail: str

    def text(self) -> str:
        """One line for people."""
        place = str(self.first_offset)
        if self.last_offset > self.first_offset:
            place += f" to {self.last_offset}"
        return f"{self.log} offset {place}: {self.what}: {self.detail}"


def node(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def tree_root(hashes: list[bytes]) -> bytes:
    """RFC 6962's root over hashes of equally high subtrees."""
    if not hashes:
        return sha256().digest()
    while len(hashes) > 1:
        # The last one of an odd number has no sibling yet and moves up as it is.
        odd = hashes[-1:] if len(hashes) & 1 else []
        hashes = [node(hashes[at], hashes[at + 1]) for at in range(0, len(hashes) - 1, 2)] + odd
    return hashes[0]


class Leaf(NamedTuple):
    """What the tree says of one record."""

    kind: int
    incarnation: int
    topic: bytes
    partition: int
    offset: int
    time_ms: int
    epoch: int
    n: int
    digest: bytes


class Tree:
    """The part of a log's tree that an export holds: all hashes, and the leaves of its range."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self.blocks: list[bytes] = []
        """The hash over each 256 leaves."""
        self.last: list[bytes] = []
        """The leaf hashes behind them."""

    def file(self, level: str, number: int, width: int = WIDTH) -> bytes | None:
        """One file of the tree, or None."""
        digits = f"{number:0{-(-len(str(number)) // 3) * 3}d}"
        parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        name = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])
        path = self.folder / "tile" / level / (name if width == WIDTH else f"{name}.p/{width}")
        if not path.is_file():
            return None
        with path.open("rb") as file:
            # What is longer than it may be does not become what it should be by being cut.
            return file.read(TILE_BYTES_MAX + 1)

    def width(self, number: int) -> int:
        """How many leaves the bundle has."""
        return min(WIDTH, self.size - number * WIDTH)

    def bundle(self, number: int) -> list[bytes] | None:
        """The leaves of a bundle, or None where the export does not hold it."""
        data = self.file("entries", number, self.width(number))
        if data is None:
            return None
        entries, at = [], 0
        while at < len(data):
            end = at + 2 + int.from_bytes(data[at : at + 2], "big")
            entries.append(data[at + 2 : end])
            at = end
        return entries

    def hashes(self, level: int, number: int, width: int) -> list[bytes] | None:
        """The hashes of a tile, all empty where it is damaged; None where there is no such file."""
        data = self.file(str(level), number, width)
        if data is None:
            return None
        if len(data) != width * 32:
            return [b""] * width
        return [data[at : at + 32] for at in range(0, len(data), 32)]

    def block(self, number: int) -> bytes | None:
        """The hash over a whole bundle, from the tile above it."""
        tile, place = divmod(number, WIDTH)
        above = self.hashes(1, tile, min(WIDTH, self.size // WIDTH - tile * WIDTH))
        return above[place] if above else None

    def root_at(self, size: int) -> bytes | None:
        """The root that the tree had at a size; None where the export cannot tell."""
        full, rest = divmod(size, WIDTH)
        last = self.last
        if full < len(self.blocks):
            entries = self.bundle(full) if rest else []
            last = [sha256(b"\x00" + entry).digest() for entry in entries or ()]
            if entries is None:
                last = self.hashes(0, full, WIDTH) or []
        if len(last) < rest:
            return None
        if not rest:
            return tree_root(self.blocks[:full])
        tail = tree_root(last[:rest])
        # Blocks are higher than the rest: it joins the lowest of the complete subtrees before it.
        ends = full
        while ends:
            width = ends & -ends
            tail = node(tree_root(self.blocks[ends - width : ends]), tail)
            ends -= width
        return tail


class Chain:
    """The rules by which a record counts: each names the record before it, and counts on."""

    def __init__(self, known: bool) -> None:
        self.state: tuple[int, int, bytes, int, bytes] | None = None
        if known:
            self.state = (0, 0, bytes(16), 0, bytes(32))

    def admit(self, stored: bytes, digest: bytes, signed_kind: int) -> tuple[int, int, int, str]:
        """Kind, epoch and number of the next record, and why it is void."""
        stamp = stamp_of(stored)
        if stamp is None:
            return VOID, 0, 0, "it has no stamp"
        kind, incarnation, epoch, claim, n, before = stamp
        if self.state is None:
            # The export begins inside the log: the first record that counts says where.
            if signed_kind == EVENT == kind:
                self.state = (incarnation, epoch, claim, n, digest)
            return signed_kind, epoch, n, ""
        was_incarnation, was_epoch, was_claim, was_n, was_before = self.state
        if kind == MARKER:
            if not was_incarnation <= incarnation <= was_incarnation + 1:
                return VOID, 0, 0, f"incarnation {incarnation} follows {was_incarnation}"
            if epoch != was_epoch + 1 or n != 0:
                return VOID, 0, 0, f"a marker of epoch {epoch} follows epoch {was_epoch}"
            self.state = (incarnation, epoch, claim, 0, sha256(digest + was_before).digest())
            return MARKER, epoch, 0, ""
        if (incarnation, epoch, claim) != (was_incarnation, was_epoch, was_claim):
            return VOID, 0, 0, f"it is of epoch {epoch}, the log's is {was_epoch}"
        if n != was_n + 1:
            return VOID, 0, 0, f"number {n} follows number {was_n}"
        if before != was_before:
            return VOID, 0, 0, "the record that it names as the one before it is another"
        self.state = (incarnation, epoch, claim, n, digest)
        return EVENT, epoch, n, ""

    def step_over(self, leaf: "Leaf") -> str:
        """Count an event whose content is gone by its leaf; why it does not fit, "" where it does.

        The record behind it names its digest, so the chain has no gap.
        """
        if self.state is None:
            return ""
        incarnation, epoch, claim, n, _ = self.state
        if (leaf.kind, leaf.incarnation, leaf.epoch, leaf.n) != (EVENT, incarnation, epoch, n + 1):
            return f"epoch {leaf.epoch}, number {leaf.n} follows epoch {epoch}, number {n}"
        self.state = (incarnation, epoch, claim, leaf.n, leaf.digest)
        return ""


def stamp_of(stored: bytes) -> tuple[int, int, int, bytes, int, bytes] | None:
    """Kind, incarnation, epoch, claim, number and predecessor that a record's first header says."""
    try:
        (count,) = struct.unpack_from(">I", stored)
        lengths = struct.unpack_from(f">{count}I", stored, 4)
    except struct.error:
        return None
    if count < 5 or 4 + 4 * count + sum(lengths) != len(stored) or lengths[4] != STAMP.size:
        return None
    at = 4 + 4 * count + sum(lengths[:3])
    if stored[at : at + lengths[3]] != b"loom":
        return None
    version, kind, incarnation, epoch, claim, n, i, m, before = STAMP.unpack_from(
        stored, at + lengths[3]
    )
    if version != 1 or kind not in (EVENT, MARKER) or (kind == EVENT and not 1 <= i <= m):
        return None
    return kind, incarnation, epoch, claim, n, before


class Record(NamedTuple):
    """A record as it is stored."""

    offset: int
    time_ms: int
    stored: bytes


def records_in(path: Path) -> Iterator[Record | str]:
    """The records of a file, then what is wrong with its end, if anything is."""
    with opened(path) as file:
        while head := file.read(FRAME.size):
            if len(head) < FRAME.size:
                yield "the file ends inside a record"
                return
            offset, time_ms, length = FRAME.unpack(head)
            stored = file.read(length) if length <= RECORD_BYTES_MAX else b""
            if len(stored) != length:
                yield f"the file ends inside the record of offset {offset}"
                return
            yield Record(offset, time_ms, stored)


class Deletion(NamedTuple):
    """What allowed that the content of records goes."""

    policy: str
    event_id: str


Allowed = dict[tuple[bytes, int], dict[int, Deletion]]
"""By digest of the topic and partition, by offset."""


def fields_of(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a protobuf message, as they stand on the wire."""
    at = 0

    def number() -> int:
        nonlocal at
        value = 0
        for shift in range(0, 70, 7):
            byte = message[at]
            value, at = value | (byte & 127) << shift, at + 1
            if byte < 128:
                return value
        raise Unusable("a number of more than 64 bits in a deletion's event")

    while at < len(message):
        tag = number()
        if tag & 7 == 0:
            yield tag >> 3, number()
        elif tag & 7 == 2:
            end = number() + at
            yield tag >> 3, message[at:end]
            at = end
        else:
            raise Unusable(f"a field of wire type {tag & 7} in a deletion's event")


def text_in(fields: dict[int, int | bytes], number: int) -> str:
    """A field that holds text."""
    value = fields.get(number, b"")
    return value.decode() if isinstance(value, bytes) else ""


def numbers_in(packed: bytes) -> list[int]:
    """The numbers of a packed field."""
    found, value, shift = [], 0, 0
    for byte in packed:
        value, shift = value | (byte & 127) << shift, shift + 7
        if byte < 128:
            found.append(value)
            value = shift = 0
    return found


def deletion_in(stored: bytes) -> tuple[tuple[bytes, int], list[int], Deletion]:
    """The log that an `archive.deleted` event speaks of, the offsets, and what it says of them."""
    (count,) = struct.unpack_from(">I", stored)
    lengths, at, parts = struct.unpack_from(f">{count}I", stored, 4), 4 + 4 * count, []
    for length in lengths:
        parts.append(stored[at : at + length])
        at += length
    headers = dict(zip(parts[3::2], parts[4::2], strict=True))
    said = dict(fields_of(headers.get(b"ce", b"")))
    event = dict(fields_of(parts[2]))
    if text_in(said, 2) != "archive.deleted":
        raise Unusable("a record of deletions/ is no event `archive.deleted`")
    partition, offsets = event.get(4, 0), event.get(6, b"")
    if not isinstance(partition, int) or not isinstance(offsets, bytes):
        raise Unusable("a record of deletions/ is no event `archive.deleted`")
    log = (sha256(text_in(event, 3).encode()).digest(), partition)
    return log, numbers_in(offsets), Deletion(text_in(event, 8), text_in(said, 1))


def allowed_in(folder: Path, key: Key) -> Allowed:
    """What the proved events of an export allow to be without content; raises Unusable."""
    allowed: Allowed = {}
    for path in sorted(folder.glob("deletions/*.record")):
        proof = path.with_suffix(".tlog-proof")
        try:
            leaf, _, _ = proved(text_of(proof), key)
        except RUBBISH as error:
            raise Unusable(f"{proof.name}: {error}") from error
        records = list(islice(records_in(path), 2))
        if len(records) != 1 or isinstance(records[0], str):
            raise Unusable(f"{path.name} is not one record: it is not the record of its proof")
        offset, time_ms, stored = records[0]
        if (offset, time_ms, sha256(stored).digest()) != (leaf.offset, leaf.time_ms, leaf.digest):
            raise Unusable(f"{path.name} is not the record that its proof is of")
        if leaf.kind != EVENT or leaf.topic != sha256(b"loomos.loomdb").digest():
            raise Unusable(f"{path.name} is no event of loomos.loomdb")
        log, offsets, deletion = deletion_in(stored)
        for one in offsets:
            allowed.setdefault(log, {}).setdefault(one, deletion)
    return allowed


class Log:
    """One log of an export, and what is found wrong in it."""

    def __init__(self, folder: Path, about: dict[str, int | bool], allowed: Allowed) -> None:
        self.name = folder.name
        self.folder = folder
        topic, _, partition = folder.name.rpartition("-")
        self.owner = (sha256(topic.encode()).digest(), int(partition))
        self.first = int(about["first"])
        """The first leaf of the exported range; it ends before leaf `end`."""
        self.end = int(about["end"])
        self.complete = bool(about["complete"])
        self.findings: list[Finding] = []
        self.allowed = allowed.get(self.owner, {})
        self.deleted: dict[Deletion, int] = {}
        """Records without content, by what allowed it."""
        self.records = 0
        self.witnesses: list[str] = []
        self.compared = False
        """Whether its leaves are what was signed, so that records could be held against them."""
        self.span = (0, 0)
        self.times = (0, 0)
        """The broker's times of the range's first and last record, from their leaves."""
        self.doubtful: list[tuple[int, int, str]] = []
        """Leaves or hashes that differ: whose fault it is says the root."""
        self.checkpoint: Checkpoint
        self.tree: Tree
        self.waiting: dict[int, Leaf] = {}
        """Leaves whose record has not come yet, though later ones have."""
        self.strangers: dict[bytes, tuple[int, bytes]] = {}
        """Digests found where another was signed: at which offset, and what was signed there."""

    def find(self, offset: int, what: str, detail: str, last: int | None = None) -> None:
        """Note a finding; neighbours of one kind become one."""
        last = offset if last is None else last
        if self.findings:
            log, first, end, kind, told = self.findings[-1]
            if (kind, told, end + 1) == (what, detail, offset):
                self.findings[-1] = Finding(log, first, last, what, detail)
                return
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(self.name, offset, last, what, detail))

    def verify(self, key: Key, witnesses: list[Key], need: int, kept: list[Checkpoint]) -> None:
        """All checks, in the order in which one rests on the other."""
        self.checkpoint = Checkpoint.load(self.folder / "checkpoint")
        self.tree = Tree(self.folder, self.checkpoint.size)
        if not 0 <= self.first <= self.end <= self.tree.size:
            raise Unusable(f"{self.name}: leaves {self.first} to {self.end} of {self.tree.size}")
        prefix = f"{key.name}/{self.name.rpartition('-')[0]}/{self.owner[1]}/"
        last = self.offset_of(self.tree.size)
        said = ""
        if not self.checkpoint.origin.startswith(prefix):
            said = f"it is of {self.checkpoint.origin!r}, not of {prefix}…"
        elif not self.checkpoint.signed(key):
            said = f"the note of {self.checkpoint.size} leaves is not signed by {key.name}"
        if said:
            # Nothing that it states can be held against leaves or records.
            self.find(last, "forged checkpoint", said)
            return
        leaves = self.read_tree()
        self.witnesses = [one.name for one in witnesses if self.checkpoint.signed(one)]
        if len(self.witnesses) < need:
            said = f"{len(self.witnesses)} of the {need} witnesses that are needed signed it"
            self.find(last, "not witnessed", said)
        self.compared = leaves is not None and self.first < self.end
        if leaves is not None:
            self.check_kept(key, kept)
            self.compare(leaves)

    def read_tree(self) -> Iterator[Leaf] | None:
        """Check the leaves against the signed root; they are handed out only if they give it."""
        tree, offset = self.tree, -1
        for number in range(-(-tree.size // WIDTH)):
            width = tree.width(number)
            entries = tree.bundle(number)
            if entries is None:
                block = tree.block(number) if width == WIDTH else None
                last = tree.hashes(0, number, width) if width < WIDTH else None
                inside = self.first < (number + 1) * WIDTH and number * WIDTH < self.end
                if inside or (block is None and last is None):
                    said = f"leaves {number * WIDTH} to {number * WIDTH + width - 1} are missing"
                    self.find(offset + 1, "gap", said)
                    return None
                tree.blocks += [block] if block is not None else []
                tree.last = last or []
                continue
            begin = offset + 1
            hashes, offset = self.read_bundle(number, entries, offset)
            if hashes is None:
                return None
            if width < WIDTH:
                tree.last = hashes
                continue
            tree.blocks.append(tree_root(hashes))
            known = self.doubtful and self.doubtful[-1][0] >= begin
            if not known and tree.block(number) not in (None, tree.blocks[-1]):
                self.doubtful.append((begin, offset, f"the hash over {WIDTH} leaves"))
        whole = tree.root_at(tree.size) == self.checkpoint.root
        for begin, end, what in self.doubtful:
            said = f"{what}: the tree's files are not what was signed"
            self.find(begin, "flipped byte", said if whole else LEAF_DIFFERS, end)
        if not whole and not self.doubtful:
            said = f"the {tree.size} leaves and hashes do not give the root that is signed"
            self.find(max(self.span[0], 0), "flipped byte", said, max(offset, 0))
        return self.leaves() if whole else None

    def read_bundle(
        self, number: int, entries: list[bytes], offset: int
    ) -> tuple[list[bytes] | None, int]:
        """A bundle's hashes; its leaves must be this log's, in order. And the last offset."""
        width = self.tree.width(number)
        hashes = [sha256(b"\x00" + entry).digest() for entry in entries]
        known = self.tree.hashes(0, number, width) or hashes
        for place, entry in enumerate(entries[:width]):
            differs = place < len(known) and hashes[place] != known[place]
            leaf = Leaf._make(LEAF.unpack(entry)) if len(entry) == LEAF.size else None
            if leaf is None or (leaf.topic, leaf.partition) != self.owner or leaf.kind > MARKER:
                self.doubtful.append((offset + 1, offset + 1, LEAF_DIFFERS))
            elif leaf.offset <= offset:
                said = (offset + 1, offset + 1, "its leaf stands out of order")
                self.doubtful += [] if self.doubtful and not differs else [said]
            elif differs:
                self.doubtful.append((offset + 1, offset + 1, "the hash of its leaf"))
            if leaf is None or leaf.offset <= offset or leaf.kind > MARKER:
                return self.give_up(offset)
            offset = leaf.offset
            index = number * WIDTH + place
            if index == self.first:
                self.span, self.times = (offset, offset), (leaf.time_ms, leaf.time_ms)
            if index < self.end:
                self.span, self.times = (self.span[0], offset), (self.times[0], leaf.time_ms)
        if len(entries) != width:
            said = f"a bundle of {width} leaves has {len(entries)}"
            self.doubtful.append((offset + 1, offset + 1, said))
            return self.give_up(offset)
        return hashes, offset

    def give_up(self, offset: int) -> tuple[None, int]:
        """Name what differs where the leaves cannot even be read to their end."""
        for begin, end, what in self.doubtful[:1]:
            self.find(begin, "gap" if "bundle" in what else "flipped byte", what, end)
        return None, offset

    def leaves(self) -> Iterator[Leaf]:
        """The leaves of the range."""
        for number in range(self.first // WIDTH, -(-self.end // WIDTH)):
            entries = self.tree.bundle(number) or []
            for index, entry in enumerate(entries, number * WIDTH):
                if self.first <= index < self.end:
                    yield Leaf._make(LEAF.unpack(entry))

    def check_kept(self, key: Key, kept: list[Checkpoint]) -> None:
        """Every checkpoint of this log that anybody kept must be of this same tree."""
        given = [one for one in kept if one.origin == self.checkpoint.origin]
        for path in sorted(self.folder.glob("checkpoints/*")):
            try:
                given.append(Checkpoint.load(path))
            except Unusable as error:
                self.find(self.span[0], "forged checkpoint", str(error), self.span[1])
        agreed = 0
        for one in sorted(given, key=lambda one: one.size):
            if one.origin != self.checkpoint.origin or not one.signed(key):
                said = f"a kept note of {one.size} leaves is not signed by {key.name}"
                self.find(self.offset_of(one.size), "forged checkpoint", said)
            elif one.size > self.tree.size:
                said = f"a kept checkpoint has {one.size} leaves, this export {self.tree.size}"
                self.find(self.span[1] + 1, "truncated log", said)
            elif (root := self.tree.root_at(one.size)) is None:
                said = f"its checkpoint of {one.size} leaves lies before this export's range"
                say(f"{self.name}: not compared: {said}", 2)
            elif root != one.root:
                said = f"two histories are signed: they part between leaf {agreed} and {one.size}"
                self.find(self.offset_of(agreed + 1), "fork", said, self.offset_of(one.size))
            else:
                agreed = one.size

    def offset_of(self, count: int) -> int:
        """The offset of the leaf that makes a tree this large, as far as the export knows."""
        number, place = divmod(max(0, min(count, self.tree.size) - 1), WIDTH)
        entries = self.tree.bundle(number)
        if not entries or place >= len(entries) or len(entries[place]) != LEAF.size:
            return 0
        return max(0, LEAF.unpack(entries[place])[4])

    def compare(self, leaves: Iterator[Leaf]) -> None:
        """Match each record with its leaf, and judge it by the chain's rules."""
        chain = Chain(known=self.first == 0)
        leaf = next(leaves, None)
        newest = -1
        for record in records_in(self.folder / "records"):
            if isinstance(record, str):
                self.find(max(newest + 1, 0), "truncated log", record)
                break
            if record.offset <= newest:
                self.late(record, newest)
                if len(self.findings) < FINDINGS_MAX:
                    continue
            if len(self.findings) >= FINDINGS_MAX:
                break
            newest = record.offset
            while leaf is not None and leaf.offset < record.offset:
                self.wait(leaf)
                leaf = next(leaves, None)
            if leaf is None or leaf.offset != record.offset:
                self.find(record.offset, "inserted", "no record was signed at this offset")
                continue
            digest = self.match(leaf, record)
            if self.complete and not (self.findings or self.strangers or self.waiting):
                self.judge(chain, leaf, record, digest)
            leaf = next(leaves, None)
        if len(self.findings) >= FINDINGS_MAX:
            say(f"{self.name}: more is wrong than is listed: the rest was not compared", 2)
            return
        first_missing = leaf
        while leaf is not None:
            last, leaf = leaf, next(leaves, None)
            if leaf is None and first_missing is not None and self.complete:
                said = "the records at the end are signed but not there"
                self.find(first_missing.offset, "truncated log", said, last.offset)
        self.explain()

    def wait(self, leaf: Leaf) -> None:
        """A leaf whose record did not stand at its place."""
        if self.complete and len(self.waiting) < WAITING_MAX:
            self.waiting[leaf.offset] = leaf

    def late(self, record: Record, newest: int) -> None:
        """A record that stands behind later ones."""
        leaf = self.waiting.pop(record.offset, None)
        if leaf is None:
            self.find(record.offset, "inserted", "a second record with this offset")
            return
        self.match(leaf, record)
        self.find(record.offset, "reordered", f"it stands behind offset {newest}")

    def match(self, leaf: Leaf, record: Record) -> bytes:
        """The record's bytes must have the digest in its leaf, and its time be the leaf's."""
        self.records += 1
        if not record.stored:
            deletion = self.allowed.get(record.offset)
            if deletion is None:
                said = "its content is gone, and the export holds no event that allows it"
                self.find(record.offset, "missing", said)
            else:
                self.deleted[deletion] = self.deleted.get(deletion, 0) + 1
            return leaf.digest
        digest = sha256(record.stored).digest()
        if digest != leaf.digest:
            if len(self.strangers) < FINDINGS_MAX:
                self.strangers[digest] = (leaf.offset, leaf.digest)
        elif record.time_ms != leaf.time_ms:
            said = f"its time is {record.time_ms}, signed was {leaf.time_ms}"
            self.find(record.offset, "flipped byte", said)
        return digest

    def judge(self, chain: Chain, leaf: Leaf, record: Record, digest: bytes) -> None:
        """The chain's rules must say of a record what its leaf says."""
        if digest != leaf.digest:
            return
        if not record.stored:
            if (why := chain.step_over(leaf)) != "":
                self.find(record.offset, "chain broken", why)
            return
        kind, epoch, n, why = chain.admit(record.stored, digest, leaf.kind)
        if kind != leaf.kind:
            what = "gap" if why.startswith("number") else "chain broken"
            said = why or f"signed as kind {leaf.kind}, by the rules it is of kind {kind}"
            self.find(record.offset, what, f"{said}: records before it are missing or replaced")
        elif kind != VOID and (epoch, n) != (leaf.epoch, leaf.n):
            said = f"it says epoch {epoch}, number {n}; its leaf {leaf.epoch}, {leaf.n}"
            self.find(record.offset, "chain broken", said)

    def explain(self) -> None:
        """Name what became of records that are changed, and of leaves without one."""
        homes = {signed: offset for offset, signed in self.strangers.values()}
        for digest, (offset, _) in sorted(self.strangers.items(), key=lambda item: item[1]):
            if digest in homes:
                said = f"it holds what was signed for offset {homes[digest]}"
                self.find(offset, "reordered", said)
            else:
                self.find(offset, "flipped byte", "its bytes are not those that were signed")
        for offset in sorted(self.waiting):
            self.find(offset, "removed event", "it is signed, but not there")
        self.findings.sort(key=lambda one: one.first_offset)


def proved(text: str, key: Key) -> tuple[Leaf, int, Checkpoint]:
    """The leaf of a C2SP `.tlog-proof` file, its index, and the checkpoint; raises Unusable."""
    head, _, note = text.partition("\n\n")
    lines = head.split("\n")
    if lines[0] != "c2sp.org/tlog-proof@v1" or len(lines) < 3:
        raise Unusable("not a .tlog-proof file with its leaf as extra data")
    entry = base64.b64decode(lines[1].removeprefix("extra "))
    index, path = int(lines[2].removeprefix("index ")), [base64.b64decode(x) for x in lines[3:]]
    checkpoint = Checkpoint.read(note)
    if not checkpoint.signed(key):
        raise Unusable(f"forged checkpoint: it is not signed by {key.name}")
    if included(sha256(b"\x00" + entry).digest(), index, checkpoint.size, path) != checkpoint.root:
        raise Unusable(f"the hashes do not lead from leaf {index} to the signed root")
    return Leaf._make(LEAF.unpack(entry)), index, checkpoint


def verified_proof(text: str, key: Key, witnesses: list[Key]) -> str:
    """What a C2SP `.tlog-proof` file proves; raises Unusable where it proves nothing."""
    leaf, index, checkpoint = proved(text, key)
    seen = [one.name for one in witnesses if checkpoint.signed(one)]
    kind = ("void record", "event", "epoch marker")[leaf.kind]
    return (
        f"proved: the {kind} at offset {leaf.offset} with digest {leaf.digest.hex()} is leaf "
        f"{index} of {checkpoint.size} in {checkpoint.origin}; "
        f"witnesses: {', '.join(seen) or 'none'}"
    )


def verified_report(path: Path, key: Key) -> str:
    """What a report and its manifest prove; raises Unusable where they prove nothing."""
    data = content(path, REPORT_BYTES_MAX)
    manifest = Checkpoint.read_note(text_of(path.with_name(f"{path.name}.manifest")))
    title, said = manifest.body.rstrip("\n").split("\n")
    if title != "loomos report manifest v1" or not manifest.signed(key):
        raise Unusable(f"forged manifest: it is not signed by {key.name}")
    if sha256(data).hexdigest() not in json.loads(said)["sha256"].values():
        raise Unusable("flipped byte: the manifest is of another file")
    if not data.startswith(b"{"):
        return f"proved: the manifest names this very file: {said}"
    report, count = json.loads(data), 0
    notes = {name: Checkpoint.read(note) for name, note in report["checkpoints"].items()}
    for name, note in notes.items():
        if not note.signed(key) or name_of(note.origin) != name:
            raise Unusable(f"forged checkpoint: that of {name} is not signed by {key.name}")
    for row in (row for section in report["sections"] for row in section["rows"]):
        proof, note = row["proof"], notes[row["log"]]
        entry, path_of_row = base64.b64decode(proof["leaf"]), map(base64.b64decode, proof["path"])
        leaf = Leaf._make(LEAF.unpack(entry))
        hashed = sha256(b"\x00" + entry).digest()
        root = included(hashed, proof["index"], note.size, list(path_of_row))
        if root != note.root or leaf.offset != row["offset"] or leaf.kind != EVENT:
            raise Unusable(f"{row['log']} offset {row['offset']}: its row is not proved")
        count += 1
    return f"proved: {count} rows stand in {len(notes)} signed trees: {said}"


def included(joined: bytes, index: int, size: int, path: list[bytes]) -> bytes | None:
    """The root that an inclusion proof leads to (RFC 9162, 2.1.3.2), or None."""
    last = size - 1
    if not 0 <= index < size:
        return None
    for step in path:
        if last == 0:
            return None
        if index & 1 or index == last:
            joined = node(step, joined)
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            joined = node(joined, step)
        index, last = index >> 1, last >> 1
    return joined if last == 0 else None


def verify_export(folder: Path, asked: argparse.Namespace, witnesses: list[Key]) -> int:
    """Verify every log of an export; the exit status."""
    logs = about_in(folder / "export.json")
    key = Key.read(asked.key or str(folder / "notary.pub"))
    if not asked.key:
        line = text_of(folder / "notary.pub").strip()
        say(f"the key came with the export; it proves nothing unless it is yours: {line}")
    kept = [Checkpoint.load(Path(name)) for name in asked.checkpoint]
    wrong, unusable, allowed = False, False, allowed_in(folder, key)
    for name in sorted(logs):
        log = Log(folder / "logs" / name, logs[name], allowed)
        try:
            log.verify(key, witnesses, asked.need, kept)
        except RUBBISH as error:
            # The other logs are worth their verdicts.
            unusable = True
            say(f"cannot be verified: {name}: {error}", 2)
            continue
        show(log, asked.json)
        wrong |= bool(log.findings)
    for origin in (one.origin for one in kept if name_of(one.origin) not in logs):
        wrong = True
        say(f"{origin}: removed log: a kept checkpoint is of it, this export is without it")
    return 1 if wrong else 2 if unusable else 0


def about_in(path: Path) -> dict[str, dict[str, int | bool]]:
    """The logs of an export, as `export.json` names them; Unusable where it is none."""
    data = content(path, ABOUT_BYTES_MAX)
    try:
        about = json.loads(data)
        logs: dict[str, dict[str, int | bool]] = {}
        for name, one in about["logs"].items():
            form = {word: type(value) for word, value in one.items()}
            if not NAME.fullmatch(name) or form != {"first": int, "end": int, "complete": bool}:
                raise ValueError(f"{name[:100]!r} is {str(one)[:100]!r}")
            logs[name] = one
        if about["format"] != 1 or not logs:
            raise ValueError("it is of another format, or without any log")
    except RUBBISH as error:
        raise Unusable(f"{path.name}: {error!r}") from error
    return logs


def show(log: Log, as_json: bool) -> None:
    """Findings, then what was verified."""
    for finding in log.findings:
        say(json.dumps(finding._asdict()) if as_json else finding.text())
    scope = f"{'all' if log.complete else 'some'} records of offset {log.span[0]} to {log.span[1]}"
    result = {
        "log": log.name,
        "leaves": log.tree.size,
        "records": log.records,
        "scope": scope if log.compared else "no records",
        "time": " to ".join(map(moment, log.times)) if log.compared else "none",
        "deleted_by_policy": sum(log.deleted.values()),
        "witnesses": log.witnesses,
        "findings": len(log.findings),
    }
    gone = [one._asdict() | {"records": count} for one, count in sorted(log.deleted.items())]
    if as_json:
        say(json.dumps(result | {"deletions": gone}))
        return
    told = ", ".join(f"{word}: {value}" for word, value in result.items() if word != "log")
    say(f"{log.name}: {told}")
    for one in gone:
        said = f"by policy {one['policy']!r}, event {one['event_id']}"
        say(f"{log.name}: the content of {one['records']} records was deleted {said}")


def moment(time_ms: int) -> str:
    """A time as people write it, in UTC."""
    if not 0 <= time_ms < 1 << 47:
        return f"{time_ms} ms"
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def name_of(origin: str) -> str:
    """The log's name in an export, from `<key name>/<topic>/<partition>/<incarnation>`."""
    return "-".join(origin.split("/")[-3:-1])


def main() -> int:
    """Verify what the command line names."""
    parser = argparse.ArgumentParser(description="Verify an export of a LoomOS log, offline.")
    parser.add_argument(
        "what", type=Path, help="an export's folder, a .tlog-proof file, or a report"
    )
    parser.add_argument("--key", default="", help="the notary's public key: its line, or a file")
    parser.add_argument("--witness", action="append", default=[], help="a witness's public key")
    parser.add_argument("--need", type=int, default=0, help="how many of them must have signed")
    parser.add_argument("--checkpoint", action="append", default=[], help="one you kept earlier")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    asked = parser.parse_args()
    try:
        witnesses = [Key.read(one) for one in asked.witness]
        if asked.what.is_dir():
            return verify_export(asked.what, asked, witnesses)
        if not asked.key:
            raise Unusable("a proof or a report needs the notary's public key: --key")
        if asked.what.with_name(f"{asked.what.name}.manifest").exists():
            say(verified_report(asked.what, Key.read(asked.key)))
        else:
            say(verified_proof(text_of(asked.what), Key.read(asked.key), witnesses))
    except RUBBISH as error:
        say(f"cannot be verified: {error if str(error) else repr(error)}", 2)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
