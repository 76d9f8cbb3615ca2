"""What a subscription has given out and not settled: who holds it, until when, what comes next.

1. Events of one stream are with one consumer at a time and in order: when one of them fails or is
   late, those of its stream behind it come back too, and come again behind it.
2. An event leaves the window when it is settled, or buried after its last delivery. Everything
   before `cursor` has left; so a process that dies repeats deliveries and loses none.
3. No clock and no I/O: time comes with each call.
"""

import heapq
import itertools
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from loomos.loomdb.cursor import Place, Vector
from loomos.loomdb.progress import Failures

__all__ = ["FAILED", "LATE", "Item", "Phase", "Window"]

FAILED, LATE, LEFT = "failed", "late", "left"
PAUSE_S = 0.1
PAUSE_S_MAX = 10.0
Key = tuple[str, int, str]


class Event(Protocol):
    """What the window must know of an event."""

    place: Place
    offset: int

    @property
    def key(self) -> Key:
        """Its stream."""
        ...


class Phase(Enum):
    """Where an event is on its way."""

    WAITING = 1
    LEASED = 2
    DYING = 3
    SETTLED = 4


@dataclass(slots=True, eq=False)
class Item:
    """One event in the window."""

    number: int
    entry: Event
    letter: int
    """Its number among the dead letters, where it is one that comes again; else 0."""
    phase: Phase = Phase.WAITING
    attempts: int = 0
    lease: int = 0
    """Names this delivery; another one has another number."""
    reason: str = ""


class Window:
    """The unsettled events of one subscription."""

    def __init__(self, ack_s: float, attempts_max: int) -> None:
        self.items: dict[int, Item] = {}
        self.dying: list[Item] = []
        """To be buried by who owns the window."""
        self.replayed: list[int] = []
        """Dead letters that were settled after all; taken away by who owns the window."""
        self._ack_s = ack_s
        self._attempts_max = attempts_max
        self._numbers = itertools.count(1)
        self._streams: dict[Key, deque[Item]] = {}
        self._by_place: defaultdict[Place, deque[Item]] = defaultdict(deque)
        self._ready: OrderedDict[Key, None] = OrderedDict()
        """Streams that nobody holds and that have something to give."""
        self._holder: dict[Key, str] = {}
        self._held: defaultdict[str, OrderedDict[Key, None]] = defaultdict(OrderedDict)
        """By consumer, the streams that it holds."""
        self._under_way: Counter[str] = Counter()
        self._deadlines: list[tuple[float, int, int]] = []
        self._paused: list[tuple[float, int, Key]] = []
        self._resting: set[Key] = set()

    def add(self, entry: Event, letter: int = 0, attempts: int = 0, reason: str = "") -> None:
        """Take in the partition's next event; how often it was delivered in vain, and why last."""
        item = Item(next(self._numbers), entry, letter, Phase.WAITING, attempts, 0, reason)
        self.items[item.number] = item
        if not letter:
            self._by_place[entry.place].append(item)
        if attempts >= self._attempts_max:
            item.phase = Phase.DYING
            self.dying.append(item)
            return
        key = entry.key
        self._streams.setdefault(key, deque()).append(item)
        self._free(key)

    def lease(self, consumer: str, limit: int, now: float) -> list[Item]:
        """Events for a consumer, so many at most; its streams go on with it."""
        taken: list[Item] = []
        for key in [*self._held.get(consumer, ())]:
            if key not in self._resting:
                taken += self._take(key, consumer, limit - len(taken), now)
        while self._ready and len(taken) < limit:
            key, _ = self._ready.popitem(last=False)
            taken += self._take(key, consumer, limit - len(taken), now)
        return taken

    def settle(self, number: int, lease: int, done: bool, now: float) -> bool:
        """Settle one delivery; False where it is not under way any more."""
        item = self.items.get(number)
        if item is None or item.phase is not Phase.LEASED or item.lease != lease:
            return False
        if done:
            self._finish(item)
            self._let_go(item.entry.key)
        else:
            self._fail(item, FAILED, now)
        return True

    def drop(self, item: Item) -> None:
        """Forget an event that nobody may see any more."""
        self._finish(item)
        self._let_go(item.entry.key)

    def expire(self, now: float) -> bool:
        """Take back what is late, and let rested streams go on; whether anything changed."""
        changed = False
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number, lease = heapq.heappop(self._deadlines)
            item = self.items.get(number)
            if item is not None and item.phase is Phase.LEASED and item.lease == lease:
                self._fail(item, LATE, now)
                changed = True
        while self._paused and self._paused[0][0] <= now:
            _, _, key = heapq.heappop(self._paused)
            self._resting.discard(key)
            self._free(key)
            changed = True
        return changed

    def leave(self, consumer: str, now: float) -> None:
        """Take back all that a consumer holds."""
        for key in [*self._held.get(consumer, ())]:
            first = next((i for i in self._streams[key] if i.phase is Phase.LEASED), None)
            if first is None:
                self._let_go(key)
            else:
                self._fail(first, LEFT, now)
        self._held.pop(consumer, None)
        self._under_way.pop(consumer, None)

    def held_by(self, consumer: str) -> int:
        """How many deliveries a consumer has not settled."""
        return self._under_way[consumer]

    def buried(self, items: list[Item]) -> None:
        """Forget events whose burial stands in the log."""
        for item in items:
            self._settled(item)

    def cursor(self, vector: Vector) -> Vector:
        """Everything before this place is settled; `vector` is what was taken in."""
        found = dict(vector)
        for place, items in self._by_place.items():
            while items and items[0].phase is Phase.SETTLED:
                items.popleft()
            if items:
                found[place] = min(items[0].entry.offset, found.get(place, 0))
        return found

    def failures(self) -> Failures:
        """What was delivered in vain and is not settled."""
        counts = ((one, one.attempts - (one.phase is Phase.LEASED)) for one in self.items.values())
        failed = ((one.entry, count, one.reason) for one, count in counts if count)
        return {(entry.place, entry.offset): (count, why) for entry, count, why in failed}

    def due(self) -> float:
        """When `expire` has something to do; infinity where nothing waits."""
        ends = [heap[0][0] for heap in (self._deadlines, self._paused) if heap]
        return min(ends, default=float("inf"))

    def _take(self, key: Key, consumer: str, limit: int, now: float) -> list[Item]:
        waiting = [item for item in self._streams[key] if item.phase is Phase.WAITING][:limit]
        for item in waiting:
            item.phase = Phase.LEASED
            item.attempts += 1
            item.lease = next(self._numbers)
            heapq.heappush(self._deadlines, (now + self._ack_s, item.number, item.lease))
        if waiting:
            self._under_way[consumer] += len(waiting)
            self._holder[key] = consumer
            self._held[consumer][key] = None
        return waiting

    def _fail(self, item: Item, reason: str, now: float) -> None:
        """Take one delivery back, and those of its stream behind it."""
        key = item.entry.key
        behind = itertools.dropwhile(lambda one: one is not item, self._streams[key])
        for one in behind:
            if one.phase is Phase.LEASED:
                one.phase = Phase.WAITING
                self._under_way[self._holder[key]] -= 1
                one.attempts -= one is not item
        item.reason = reason
        if item.attempts >= self._attempts_max:
            item.phase = Phase.DYING
            self._streams[key].remove(item)
            self.dying.append(item)
        else:
            pause = min(PAUSE_S_MAX, PAUSE_S * 2 ** (item.attempts - 1))
            self._resting.add(key)
            heapq.heappush(self._paused, (now + pause, next(self._numbers), key))
        self._let_go(key)

    def _finish(self, item: Item) -> None:
        self._streams[item.entry.key].remove(item)
        self._under_way[self._holder[item.entry.key]] -= 1
        self._settled(item)
        if item.letter:
            self.replayed.append(item.letter)

    def _settled(self, item: Item) -> None:
        item.phase = Phase.SETTLED
        del self.items[item.number]

    def _let_go(self, key: Key) -> None:
        """Free a stream of its holder once nothing of it is under way."""
        stream = self._streams[key]
        if any(item.phase is Phase.LEASED for item in stream):
            return
        consumer = self._holder.pop(key, None)
        if consumer is not None:
            self._held[consumer].pop(key, None)
        if not stream:
            del self._streams[key]
            self._ready.pop(key, None)
        else:
            self._free(key)

    def _free(self, key: Key) -> None:
        """Offer a stream that nobody holds, unless it rests after a failure."""
        if key in self._streams and key not in self._holder and key not in self._resting:
            self._ready[key] = None
