"""What must hold after every fault: I1 to I7, each broken one a line that names it.

I1 acknowledged: readable once by id. I2 refused: never; unknown: once or not at all. I3 versions
1..n. I4 read models are the log's fold. I5 signed checkpoints agree with each other and the log,
and sampled events are proved to a stranger. I6 everybody catches up. I7 causes exist.
"""

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from loom.decider import Recorded
from loom.kit.contract import Service
from loom.log.note import Verifier
from loom.log.reader import Judged
from loom.log.tiles import DamagedTree
from loom.log.verify import Sealed, open_trees
from loom.log.verify_live import verify_live
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.cli.chaos.appends import KIND, ORGANISATIONS
from loomos.cli.chaos.told import broken_causes, broken_ids
from loomos.cli.chaos.world import TOPIC, World, store_of
from loomos.cli.soak.promises import Witness, broken_promises
from loomos.cli.soak.world import read_partition, unlike_the_log
from loomos.data.main import SERVICE as DATA
from loomos.loomdb.main import SERVICE as LOOMDB
from loomos.verify import loomos_verify

__all__ = ["Checks"]

CAUGHT_UP_SECONDS = 120.0
READ_SECONDS = 300.0
POLL_SECONDS = 0.3
SAMPLES = 20
TREE_READS = 10
BROKEN_MAX = 20
READ_MODELS: tuple[Service, ...] = (DATA, LOOMDB)


class Checks:
    """Remembers, over all rounds, what was seen of the log and of its signed trees."""

    def __init__(self, made: World, chance: random.Random) -> None:
        self.made = made
        self.chance = chance
        self.witness = Witness()
        self.signed: dict[tuple[str, int], bytes] = {}
        """(tree, size) → the root that was signed for it."""

    async def after_round(self) -> list[str]:
        """I1 to I3 and I7 on the log, and that what was seen of it still stands."""
        records, events = await self.partition()
        broken = [f"I1-I3: {one}" for one in broken_promises(self.made.outcomes, events)]
        broken += [f"I5: {one}" for one in self.witness.sees(TOPIC, 0, records)]
        broken += broken_ids(self.made.requests, self.made.outcomes, events)
        broken += broken_causes(events)
        broken += await self.noted()
        return broken[:BROKEN_MAX]

    async def partition(self) -> tuple[list[Judged], list[Recorded]]:
        """The whole of data's partition, judged, and its events."""
        async with asyncio.timeout(READ_SECONDS):
            return await read_partition(self.made.settings("loomdb"), TOPIC)

    async def at_the_end(self, say: Callable[[str], None]) -> list[str]:
        """All seven."""
        broken = await self.after_round()
        _, events = await self.partition()
        began = time.monotonic()
        broken += await self.unread(events)
        say(f"subscribers caught up in {time.monotonic() - began:.1f} s")
        try:
            broken += await self.unlike(events)
        except TimeoutError:
            broken.append(f"I6: read models not caught up within {CAUGHT_UP_SECONDS:.0f} s")
        say(f"read models caught up and rebuilt after {time.monotonic() - began:.1f} s")
        broken += await self.unproved(events)
        return broken[:BROKEN_MAX]

    async def unlike(self, events: list[Recorded]) -> list[str]:
        """I4 and the index's half of I1."""
        broken: list[str] = []
        ends = {TOPIC: events[-1].position.offset + 1}
        for service in READ_MODELS:
            store = await store_of(self.made, service.name)
            try:
                found = await unlike_the_log(
                    service, self.made.settings(service.name), store, ends, CAUGHT_UP_SECONDS
                )
                broken += [f"I4: {one}" for one in found]
                if service is LOOMDB:
                    broken += await self.unindexed(store, events)
            finally:
                await store.close()
        return broken

    async def unindexed(self, store: object, events: list[Recorded]) -> list[str]:
        """I1: each event of the log stands in the index once, under its id."""
        async with store.connection() as connection:  # pyright: ignore
            rows = await (
                await connection.execute(
                    "SELECT event_id, count(*) AS n FROM audit_events WHERE topic = %s GROUP BY 1",
                    (TOPIC,),
                )
            ).fetchall()
        found = {row["event_id"]: row["n"] for row in rows}
        last = events[-1].position.offset
        missing = [one.id for one in events if one.id not in found]
        twice = [one for one, count in found.items() if count != 1]
        return [f"I1: {one} is not in the index (of {last} offsets)" for one in missing[:5]] + [
            f"I1: {one} stands {found[one]} times in the index" for one in twice[:5]
        ]

    async def unread(self, events: list[Recorded]) -> list[str]:
        """I6 and I1 of subscribers: the one in order and once, the other at least once."""
        wanted = [
            one.id
            for one in events
            if isinstance(one.event, data_pb2.EventAppended)
            and one.event.event_type == KIND
            and one.event.organisation_id == ORGANISATIONS[0]
        ]
        cursor, durable = self.made.cursor, self.made.durable
        deadline = time.monotonic() + CAUGHT_UP_SECONDS
        while time.monotonic() < deadline:
            if len(cursor.seen) >= len(wanted) and len(durable.done) >= len(wanted):
                break
            await asyncio.sleep(POLL_SECONDS)
        broken: list[str] = []
        if cursor.seen[: len(wanted)] != wanted:
            counted = Counter(cursor.seen)
            missing = [one for one in wanted if one not in counted]
            twice = [one for one, count in counted.items() if count > 1]
            broken.append(
                f"I6: the reader with a cursor saw {len(cursor.seen)} of {len(wanted)}; "
                f"missing {missing[:3]}, twice {twice[:3]}"
            )
        left = [one for one in wanted if one not in durable.done]
        if left:
            broken.append(f"I6: {len(left)} deliveries never came, e.g. {left[:3]}")
        return broken

    def trees(self) -> Path:
        """Where the notary keeps what it signed."""
        return self.made.stores.home.path / "trees"

    def key(self) -> Path:
        """The notary's public key, as a stranger has it."""
        return self.made.stores.home.credentials / "loomdb" / "notary.pub"

    def sealed(self) -> list[Sealed]:
        """All trees as they are signed now."""
        return open_trees(self.trees(), Verifier.parse(self.key().read_text()))

    async def noted(self) -> list[str]:
        """`note_signed`, again where the notary put a newer tile in place meanwhile."""
        told = ""
        for _ in range(TREE_READS):
            try:
                return self.note_signed()
            except DamagedTree as error:
                told = str(error)
                await asyncio.sleep(POLL_SECONDS)
        return [f"I5: {told}"]

    def note_signed(self) -> list[str]:
        """I5: a size is signed with one root only; each seen root is the tree's at that size."""
        if not self.key().exists():
            return []
        broken: list[str] = []
        for sealed in self.sealed():
            name = f"{sealed.topic}/{sealed.partition}"
            size = sealed.tree.size
            root = sealed.tree.root(size)
            if self.signed.setdefault((name, size), root) != root:
                broken.append(f"I5: {name} has two signed trees of size {size}")
            for (tree, earlier), known in self.signed.items():
                if tree == name and earlier <= size and sealed.tree.root(earlier) != known:
                    broken.append(f"I5: the tree of {name} at {size} does not begin with {earlier}")
        return broken

    async def unproved(self, events: list[Recorded]) -> list[str]:
        """I5: the log is what was signed, and strangers can check samples of it."""
        broken: list[str] = []
        for one in self.sealed():
            report = await verify_live(self.made.settings("loomdb"), one)
            broken += [f"I5: {fault.text()}" for fault in report.faults]
        own = [one for one in events if isinstance(one.event, data_pb2.EventAppended)]
        for one in self.chance.sample(own, min(SAMPLES, len(own))):
            organisation = one.event.organisation_id  # pyright: ignore
            request = pb.GetEventProofRequest(organisation_id=organisation, event_id=one.id)
            proof = await self.made.people.patiently(request, organisation)
            assert isinstance(proof, pb.EventProof)
            path = self.made.stores.home.path / "event.tlog-proof"
            path.write_text(proof.tlog_proof)
            script = [sys.executable, "-I", "-S", str(loomos_verify.__file__)]
            result = await asyncio.to_thread(
                subprocess.run,
                [*script, str(path), "--key", str(self.key())],
                capture_output=True,
                text=True,
                check=False,
            )
            if result.returncode or proof.position.offset != one.position.offset:
                broken.append(f"I5: {one.id} is not proved: {result.stdout}{result.stderr}"[:300])
        return broken
