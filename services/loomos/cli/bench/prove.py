"""`loomos bench prove`: leaves a second into a tree on disk, and how long one proof takes.

1. Leaves are made from verdicts, appended, and made durable and signed every SEAL leaves, as the
   notary does it; what it reads from Kafka is measured by `bench replay`.
2. Proofs are of leaves drawn at random, each from files, with the caches of one reader.
3. The peer hashes the same leaves and as many inner nodes, and keeps nothing.
"""

import random
import time
from hashlib import sha256
from pathlib import Path

from loom.log.judge import Kind, Stamp, Verdict
from loom.log.leaf import leaf_of, topic_digest
from loom.log.merkle import inclusion_proof, verify_inclusion
from loom.log.notary import Notary
from loom.log.note import load_signer
from loom.log.tiles import Tiles
from loomos.cli.bench.report import Report, Row, paired, percentile
from loomos.embedded.process import Unusable

__all__ = ["measure"]

BENCH = "prove"
SIZES = (100_000, 1_000_000)
SEAL = 100_000
PROOFS = 2000
TOPIC = "loomos.bench"
PEER = "SHA-256 of the same leaves and nodes"
HASHED_BYTES = 65
"""What an inner node hashes."""


def measure(report: Report, folder: Path, pairs: int) -> None:
    """All rows, at one size and at ten times that."""
    for size in SIZES:
        rates, peers = [], []
        for pair in range(pairs):
            report.say(f"{size} leaves, pair {pair + 1} of {pairs}")
            place = folder / f"{size}-{pair}"
            rates.append(appended(place, size))
            peers.append(hashed(size))
        report.add(paired(BENCH, f"appended_{size}", rates, "leaves/s", PEER, peers))
        times = proved(folder / f"{size}-0", size)
        for percent in (50, 99):
            value = percentile(times, percent)
            report.add(Row(BENCH, f"proof_{size}_p{percent}", value, "ms"))


def appended(folder: Path, size: int) -> float:
    """Leaves a second, signed and durable."""
    notary = Notary(folder, TOPIC, 0, load_signer(folder, "bench"))
    stamp = Stamp(Kind.EVENT, 0, 1, bytes(16), 1, 1, 1, bytes(32))
    verdicts = [
        Verdict(Kind.EVENT, sha256(number.to_bytes(2, "big")).digest(), stamp)
        for number in range(1000)
    ]
    began = time.perf_counter()
    for offset in range(size):
        notary.append(offset, offset, verdicts[offset % 1000])
        if (offset + 1) % SEAL == 0:
            notary.seal()
    notary.seal()
    return size / (time.perf_counter() - began)


def hashed(size: int) -> float:
    """Leaves a second where nothing is done but their hashes."""
    topic, node = topic_digest(TOPIC), bytes(HASHED_BYTES)
    stamp = Stamp(Kind.EVENT, 0, 1, bytes(16), 1, 1, 1, bytes(32))
    leaf = leaf_of(topic, 0, 0, 0, 0, Verdict(Kind.EVENT, bytes(32), stamp)).pack()
    began = time.perf_counter()
    for _ in range(size):
        sha256(leaf).digest()
        sha256(node).digest()
    return size / (time.perf_counter() - began)


def proved(folder: Path, size: int) -> list[float]:
    """Milliseconds that single proofs took, each of which is verified."""
    tree = Tiles(folder / f"{TOPIC}-0" / "0", size)
    root, drawn, times = tree.root(), random.Random(size), []  # noqa: S311 - which leaves to prove
    for _ in range(PROOFS):
        index = drawn.randrange(size)
        began = time.perf_counter()
        leaf = tree.entry(index)
        path = inclusion_proof(index, size, tree.node)
        times.append((time.perf_counter() - began) * 1000)
        if not verify_inclusion(sha256(b"\x00" + leaf).digest(), index, size, path, root):
            raise Unusable(f"the proof of leaf {index} does not hold")
    return times
