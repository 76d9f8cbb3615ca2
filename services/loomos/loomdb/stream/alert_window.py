"""What a rule has seen lately, group by group; pure.

1. Times are the log's. The same events in the same order cross the same thresholds, whoever reads
   them and however late.
2. Bounded: of a group no more is kept than its threshold needs, of groups the newest 1,000.
3. Nothing is raised twice: what came no later than a group's last alert only fills its window.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from loom.v1 import loomdb_pb2 as pb

__all__ = ["Crossing", "Group", "Watch", "needed"]

GROUPS_MAX = 1000
EVIDENCE_MAX = 20
US = 1_000_000


class Crossing(NamedTuple):
    """A threshold that was crossed."""

    group: str
    evidence_ids: list[str]
    matches: int


@dataclass(slots=True)
class Group:
    """One group's lately matched events."""

    matched: deque[tuple[int, str]] = field(default_factory=deque)
    """Time and id, in the order in which they were read."""
    last_us: int = 0
    last_id: str = ""
    alert_id: str = ""
    """The newest alert; empty where there is none."""
    raised_us: int = 0
    cause_id: str = ""
    cause_us: int = 0
    resolved: bool = True
    suppressed: int = 0
    """Not told yet."""
    suppressed_to_us: int = 0


def needed(condition: pb.AlertCondition) -> int:
    """How many events in a window are as many as it takes."""
    if condition.rate_per_minute_min:
        # Whole numbers, rounded up: a rate is at least this.
        return -(-condition.rate_per_minute_min * condition.window_seconds // 60)
    return max(1, condition.count_min)


class Watch:
    """A rule's groups."""

    def __init__(self, spec: pb.AlertSpec) -> None:
        self.needed = needed(spec.condition)
        self.window_us = spec.condition.window_seconds * US
        self.absent_us = spec.condition.absent_seconds * US
        self.cooldown_us = spec.cooldown_seconds * US
        self.groups: OrderedDict[str, Group] = OrderedDict()

    @property
    def lookback_us(self) -> int:
        """How far back a new reader must begin to know the groups."""
        return max(self.window_us, self.absent_us)

    def group(self, name: str) -> Group:
        """A group, the newest now."""
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = Group()
            while len(self.groups) > GROUPS_MAX:
                self.groups.popitem(last=False)
        self.groups.move_to_end(name)
        return found

    def seen(self, name: str, at_us: int, event_id: str, fresh: bool) -> Crossing | None:
        """Take a matching event in; what it crosses. One that is not fresh only fills windows."""
        group = self.group(name)
        if at_us >= group.last_us:
            group.last_us, group.last_id = at_us, event_id
        if self.absent_us:
            return None
        group.matched.append((at_us, event_id))
        while group.matched[0][0] < group.last_us - self.window_us or (
            len(group.matched) > max(self.needed, EVIDENCE_MAX)
        ):
            group.matched.popleft()
        if not fresh or len(group.matched) < self.needed or event_id == group.cause_id:
            return None
        if group.alert_id and at_us < group.raised_us + self.cooldown_us:
            if at_us > group.suppressed_to_us:
                group.suppressed += 1
            return None
        ids = [one for _, one in group.matched][-EVIDENCE_MAX:]
        return Crossing(name, ids, len(group.matched))

    def raised(self, name: str, alert_id: str, cause_id: str, at_us: int) -> None:
        """An alert of this group stands in the log."""
        group = self.group(name)
        group.alert_id, group.cause_id, group.resolved = alert_id, cause_id, False
        group.raised_us = group.suppressed_to_us = at_us
        group.suppressed = 0

    def silent(self, now_us: int) -> list[str]:
        """Groups that were silent too long and of which that was not said yet."""
        if not self.absent_us:
            return []
        return [
            name
            for name, group in self.groups.items()
            if group.last_us + self.absent_us <= now_us
            and group.cause_id != group.last_id
            and group.raised_us + self.cooldown_us <= now_us
        ]

    def suppressions(self) -> list[tuple[Group, int]]:
        """Groups with something to tell, and up to which time; told from now on."""
        told = []
        for group in self.groups.values():
            if group.suppressed:
                told.append((group, group.suppressed))
                group.suppressed, group.suppressed_to_us = 0, group.last_us
        return told
