"""What the log promises to callers, compared with what it holds; every broken promise is a line.

1. Acknowledged: there exactly once, at the offset and version of its receipt.
2. Refused: there once, as the refusal. Unknown: there once or not at all, never in part.
3. Each stream has versions 1..n; no event id stands twice.
4. What a witness has seen of a partition never changes: each earlier tree begins the later ones.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

from loom.decider import Recorded
from loom.log.leaf import leaf_of, topic_digest
from loom.log.merkle import Frontier, leaf_hash
from loom.log.reader import Judged
from loom.v1 import common_pb2
from loomos.cli.soak.load import ACKNOWLEDGED, REFUSED, Outcome

__all__ = ["Witness", "broken_promises"]

UNKNOWN_CALLER = "UNAUTHENTICATED"


def broken_promises(outcomes: Mapping[str, Outcome], records: Iterable[Recorded]) -> list[str]:
    """What is not as the callers were told."""
    told: dict[str, list[Recorded]] = defaultdict(list)
    versions: dict[str, int] = defaultdict(int)
    ids: Counter[str] = Counter()
    broken = []
    for one in records:
        ids[one.id] += 1
        versions[one.stream] += 1
        if one.version != versions[one.stream]:
            broken.append(
                f"{one.position.offset}: {one.stream} has version {one.version}, expected "
                f"{versions[one.stream]}"
            )
        if one.command_id in outcomes:
            told[one.command_id].append(one)
    broken += [f"event {one} stands {count} times" for one, count in ids.items() if count > 1]
    for command_id, outcome in outcomes.items():
        why = fault(outcome, told.get(command_id, []))
        if why:
            broken.append(f"{command_id} ({outcome.kind} {outcome.code}): {why}")
    return broken


def fault(outcome: Outcome, found: list[Recorded]) -> str:
    """What is wrong with one command's records, or ""."""
    if len({one.at_us for one in found}) > 1:
        return "was decided more than once"
    refused = [one for one in found if one.type == "command.refused"]
    if outcome.kind == ACKNOWLEDGED:
        assert outcome.receipt is not None
        if not found or refused:
            return "is not in the log" if not found else "was refused in the log"
        (place,) = outcome.receipt.positions
        if place.offset != found[-1].position.offset:
            return f"receipt says offset {place.offset}, it ends at {found[-1].position.offset}"
        if outcome.receipt.version != version_of(found):
            return f"receipt says version {outcome.receipt.version}, it is {version_of(found)}"
        return ""
    codes = [one.event.code for one in found if isinstance(one.event, common_pb2.CommandRefused)]
    if outcome.code == UNKNOWN_CALLER:
        # Whom nobody knows leaves no word in anybody's name.
        return f"the log holds {[one.type for one in found]}" if found else ""
    if outcome.kind == REFUSED and (codes != [outcome.code] or len(found) != 1):
        return f"the log holds {[one.type for one in found]}"
    return ""


def version_of(found: list[Recorded]) -> int:
    """The version that a command's first stream reached with it."""
    return max(one.version for one in found if one.stream == found[0].stream)


class Witness:
    """Remembers the hash trees of one partition that it has seen."""

    def __init__(self) -> None:
        self.roots: dict[int, bytes] = {}

    def sees(self, topic: str, partition: int, records: list[Judged]) -> list[str]:
        """Grow the tree anew over the whole partition; the earlier roots that it contradicts."""
        tree = Frontier()
        changed = []
        incarnation = 0
        for size, one in enumerate(records, start=1):
            if one.verdict.valid and one.verdict.stamp is not None:
                incarnation = one.verdict.stamp.incarnation
            place = (topic_digest(topic), partition, incarnation, one.offset)
            tree.append(leaf_hash(leaf_of(*place, one.timestamp_ms, one.verdict).pack()))
            if size in self.roots and self.roots[size] != tree.root():
                changed.append(f"the first {size} records are not those that were there before")
        changed += [f"{size} records were there" for size in self.roots if size > len(records)]
        self.roots[len(records)] = tree.root()
        return changed
