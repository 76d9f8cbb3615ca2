"""`loomos bench verify`: how long a stranger needs to verify an export, with Python alone.

1. The export is of one log of made-up events, sealed and written by the platform's own code.
2. The verifier runs as a stranger runs it: `python -I`, one file, no library.
3. The peer reads the same files and hashes them, and looks at nothing.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from loom.log.export import Frame, stored_bytes
from loom.log.judge import HEADER, ZERO_DIGEST, Headers, Judge, Kind, Stamp
from loom.log.notary import Notary
from loom.log.note import load_signer
from loom.log.tiles import Tiles, parse_tile_path
from loomos.cli.audit_export import VERIFIER, export
from loomos.cli.bench.report import Report, paired
from loomos.embedded.process import Unusable

__all__ = ["measure"]

BENCH = "verify"
SIZES = (100_000, 1_000_000)
TOPIC = "loomos.bench"
LOG = f"{TOPIC}-0"
PAYLOAD_BYTES = 300
CLAIM = bytes(16)
PEER = "SHA-256 of the same files"
MEBIBYTE = 2**20


class Made:
    """A log of made-up events and its tree."""

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        self.records = folder / "records"
        self.signer = load_signer(folder, "bench")
        self.notary = Notary(folder, TOPIC, 0, self.signer)
        judge = Judge()
        with self.records.open("wb") as file:
            for offset in range(size):
                headers, value = event(offset, judge.before)
                verdict = judge.admit(b"bench", headers, value)
                self.notary.append(offset, offset, verdict)
                file.write(Frame(offset, offset, stored_bytes(b"bench", headers, value)).pack())
        self.notary.seal()

    def tree(self, log: str, path: str) -> bytes | None:
        """A file of the tree."""
        if path == "checkpoint":
            return (self.notary.folder / path).read_bytes()
        place = parse_tile_path(path)
        return Tiles(self.notary.folder, self.size).file(*place) if place else None

    def records_of(self) -> Iterator[bytes]:
        """The stored records."""
        with self.records.open("rb") as file:
            while page := file.read(MEBIBYTE):
                yield page


class Source:
    """The same as an export's source."""

    def __init__(self, made: Made) -> None:
        self.tree = made.tree
        self.made = made
        self.deletions: dict[bytes, str] = {}

    def records(self, log: str, first: int, end: int) -> Iterator[bytes]:
        """All of them: the whole log is exported."""
        return self.made.records_of()


def event(offset: int, before: bytes) -> tuple[Headers, bytes]:
    """The next record of one claim: its marker, then events."""
    kind = Kind.EVENT if offset else Kind.MARKER
    stamp = Stamp(kind, 0, 1, CLAIM, offset, 1, 1, before if offset else ZERO_DIGEST)
    headers = ((HEADER, stamp.pack()), ("ce", offset.to_bytes(8, "big") * 16))
    return headers, offset.to_bytes(4, "big") * (PAYLOAD_BYTES // 4)


def measure(report: Report, folder: Path, pairs: int) -> None:
    """All rows, at one size and at ten times that."""
    for size in SIZES:
        report.say(f"making an export of {size} events")
        place = folder / str(size)
        place.mkdir()
        out = place / "export"
        made = Made(place, size)
        export(Source(made), [LOG], out, public_key=made.signer.verifier.text())
        rates, peers = [], []
        for pair in range(pairs):
            report.say(f"pair {pair + 1} of {pairs}")
            rates.append(size / verified(out, size))
            peers.append(size / hashed(out))
        report.add(paired(BENCH, f"verified_{size}", rates, "events/s", PEER, peers))


def verified(out: Path, size: int) -> float:
    """Seconds that the stand-alone verifier took."""
    words = [sys.executable, "-I", "-S", str(out / VERIFIER), str(out)]
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode or f"records: {size}," not in done.stdout:
        raise Unusable(f"the export does not verify: {done.stdout}{done.stderr}")
    return seconds


def hashed(out: Path) -> float:
    """Seconds to read and hash every file."""
    began = time.perf_counter()
    for path in sorted(out.rglob("*")):
        if path.is_file():
            sha256(path.read_bytes()).digest()
    return time.perf_counter() - began
