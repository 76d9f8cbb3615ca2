"""Delivers one subscription to its consumers, from the process that owns its organisation's shard.

1. `positions` says before which place everything is settled, and what was delivered in vain behind
   it; it moves by compare-and-set under a fencing epoch, so an owner that was replaced moves it no
   more. The log hears of the place every 30 s.
2. What is delivered is what the subscription's maker may see at that moment; a consumer must be
   allowed to see all of that.
3. An event that was delivered in vain as often as its subscription says is buried by an event in
   the log, and only then passed over.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from loom.decider import Rejected
from loom.kit.errors import Failure
from loom.store import Fenced, Store
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import cursor as cursors
from loomos.loomdb import progress
from loomos.loomdb.cursor import Place
from loomos.loomdb.entry import Entry
from loomos.loomdb.filter import selection
from loomos.loomdb.progress import Failures
from loomos.loomdb.query.place import AWAY, NotProjectedYet, begins, row_at
from loomos.loomdb.query.subscription import (
    Kept,
    kept,
    letters_again,
    letters_behind,
    progress_name,
)
from loomos.loomdb.sight import Rights
from loomos.loomdb.stream.source import Source
from loomos.loomdb.stream.tail import tail_of
from loomos.loomdb.stream.window import Item, Window

if TYPE_CHECKING:
    from loom.kit.service import Shell

__all__ = ["Dispatcher", "Ended"]

OPEN_MAX = 2000
PULL = 200
FLUSH_S = 0.2
LOOK_S = 1.0
LOGGED_S = 30.0
LINGER_S = 5.0
PLACE = ("*", 0)
"""A subscription's position is one row: its cursor names the partitions."""


class Ended(Exception):
    """The dispatcher delivers no more; its message says why."""


class Dispatcher:
    """One subscription under way."""

    def __init__(self, shell: "Shell", created: pb.SubscriptionCreated) -> None:
        self.created = created
        self.changed = asyncio.Event()
        self.ended = ""
        self.window = Window(created.ack_deadline_ms / 1000, created.deliveries_max)
        self.rights = Rights(shell.authorizer, created.created_by, created.organisation_id)
        chosen = created.selection
        self.selection = selection(chosen.types, chosen.where, chosen.filter)
        self._shell = shell
        self._source: Source
        self._boot = secrets.token_hex(4)
        self._consumers = 0
        self._empty_since = time.monotonic()
        self._room = asyncio.Event()
        self._stored = ""
        self._logged = ""
        self._logged_at = time.monotonic()
        self._epoch = 0
        self._again: set[int] = set()
        """Dead letters that are in the window."""
        self._failures: Failures = {}
        """What earlier owners delivered in vain and is not in the window again."""
        self._buried: set[tuple[Place, int]] = set()
        """Dead letters behind the place where this owner began."""

    async def start(self, found: Kept) -> None:
        """Take the subscription over, from where its consumers were."""
        tail = tail_of(self._shell)
        await tail.started()
        name = progress_name(self.created.subscription_id)
        stored, epoch = await self._shell.store.claim_position(name, *PLACE, found.cursor)
        settled, self._failures = progress.parse(stored)
        logged, older = cursors.parse(found.cursor)
        vector, newer = cursors.parse(settled)
        text = cursors.text_of(cursors.later(logged, vector), older | newer)
        async with self._shell.db() as db:
            try:
                begin = await begins(pb.EventStart(cursor=text), db) if text else {}
            except NotProjectedYet as error:
                raise Failure("UNAVAILABLE", f"the index is behind: {error}: retry") from error
            self._buried = await letters_behind(self.created.subscription_id, begin, db)
        self._stored, self._logged, self._epoch = stored, found.cursor, epoch
        self._source = Source(self._shell, tail, self.selection, self.rights, begin)

    async def run(self) -> None:
        """Deliver until nobody consumes any more, or until another owner has taken over."""
        try:
            async with asyncio.TaskGroup() as tasks:
                pull = tasks.create_task(self._pull())
                await self._keep()
                # Said before anything else happens: nobody joins what ends.
                self.ended = "nobody consumes it here any more"
                pull.cancel()
        except* Ended as group:
            self.ended = str(group.exceptions[0])
        except* Fenced:
            self.ended = "another instance delivers it now"
        except* Exception as group:  # noqa: BLE001 - its consumers are told, others go on
            self._shell.log.error("delivery ended", error=repr(group.exceptions[0]))
            self.ended = "its delivery failed"
        finally:
            self.ended = self.ended or "its delivery was stopped"
            self.tell()

    def tell(self) -> None:
        """Wake everybody who waits for something to change."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    @asynccontextmanager
    async def consumer(self) -> AsyncIterator[str]:
        """A place among the consumers; what it leaves unsettled comes again to others."""
        name = secrets.token_hex(8)
        self._consumers += 1
        self._room.set()
        try:
            yield name
        finally:
            self._consumers -= 1
            self._empty_since = time.monotonic()
            self.window.leave(name, time.monotonic())
            self.tell()

    def lease(self, consumer: str, limit: int) -> list[pb.Delivery]:
        """Deliveries for a consumer; what the maker may see no more is passed over."""
        sight = self.rights.now()
        if sight is None:
            return []
        deliveries = []
        for item in self.window.lease(consumer, limit, time.monotonic()):
            entry = entry_of(item)
            if entry.fits(self.selection, sight):
                delivery_id = f"{self._boot}.{item.number}.{item.lease}"
                deliveries.append(
                    pb.Delivery(delivery_id=delivery_id, attempt=item.attempts, event=entry.event)
                )
            else:
                self.window.drop(item)
        return deliveries

    def settle(self, delivery_id: str, done: bool) -> bool:
        """Settle one delivery; False where nothing is known of it any more."""
        boot, _, rest = delivery_id.partition(".")
        number, _, lease = rest.partition(".")
        if boot != self._boot or not (number.isdigit() and lease.isdigit()):
            return False
        return self.window.settle(int(number), int(lease), done, time.monotonic())

    def settled(self) -> None:
        """Let go on what waited for settlements."""
        self._room.set()
        self.tell()

    async def _pull(self) -> None:
        """Keep the window filled while there is somebody to deliver to."""
        while True:
            room = OPEN_MAX - len(self.window.items)
            if room <= 0 or not self._consumers:
                self._room.clear()
                await self._room.wait()
                continue
            sight = self._source.sight
            found = await self._source.take(min(room, PULL))
            for entry in await self._source.seen(found, sight):
                if (entry.place, entry.offset) not in self._buried:
                    self._add(entry)
            if found:
                self.tell()
            await self._source.wait(LOOK_S)

    def _add(self, entry: Entry, letter: int = 0) -> None:
        """Take an event in, with what earlier owners know of it."""
        self.window.add(entry, letter, *self._failures.pop((entry.place, entry.offset), (0, "")))

    @property
    def _idle(self) -> bool:
        return not self._consumers and time.monotonic() - self._empty_since > LINGER_S

    async def _keep(self) -> None:
        """Mind deadlines, burials, replays and progress until nobody consumes any more."""
        looked_at = 0.0
        while True:
            now, idle = time.monotonic(), self._idle
            if self.window.expire(now):
                self.tell()
            if now - looked_at > LOOK_S:
                looked_at = now
                await self._look()
            await self._flush(final=idle)
            if idle and self._idle:
                # Who came while the log was told is served on.
                return
            await asyncio.sleep(min(FLUSH_S, max(0.001, self.window.due() - time.monotonic())))

    async def _look(self) -> None:
        """See whether the subscription stands, is delivered here, and has letters to repeat."""
        own = self.created
        if not self._shell.ownership.owns(own.organisation_id):
            raise Ended("its shard moves to another owner: retry")
        try:
            async with self._shell.db() as db:
                if await kept(own.organisation_id, own.subscription_id, db) is None:
                    raise Ended("it was deleted")
                letters = await letters_again(own.subscription_id, PULL, db)
                # One that is dead again, or settled in the log, may be repeated again later.
                self._again.intersection_update(row["number"] for row in letters)
                for row in letters:
                    if row["number"] not in self._again:
                        await self._repeat(row, db)
            if len(letters) < PULL:
                # What is behind and no letter either comes no more.
                taken = self._source.vector
                self._failures = {
                    (place, offset): known
                    for (place, offset), known in self._failures.items()
                    if offset >= taken.get(place, 0)
                }
        except AWAY as error:
            self._shell.log.warning("delivery waits for the database", reason=str(error).strip())

    async def _repeat(self, row: dict[str, Any], db: Any) -> None:
        number = row["number"]
        self._again.add(number)
        found = await row_at((row["topic"], row["partition"]), row["record_offset"], db)
        if found is None:
            # A policy deleted it meanwhile: there is nothing left to deliver.
            self.window.replayed.append(number)
        else:
            self._add(Entry.of_row(found), number)
            self.tell()

    async def _flush(self, final: bool) -> None:
        """Bury what died, store how far the consumers are, and now and then tell the log."""
        await self._bury()
        place = self.window.cursor(self._source.vector)
        cursor = cursors.text_of(place, tail_of(self._shell).incarnations)
        text = progress.text_of(cursor, self._failures | self.window.failures())
        if text != self._stored:
            name = progress_name(self.created.subscription_id)
            try:
                async with self._shell.store.connection() as connection:
                    step = (self._stored, text)
                    await Store.move_position(connection, name, *PLACE, step, self._epoch)
                self._stored = text
            except AWAY:
                return
        late = time.monotonic() - self._logged_at > LOGGED_S or final
        replayed = self.window.replayed[:1000]
        if replayed or (late and cursor != self._logged):
            own = self.created
            told = pb.ReportProgressRequest(
                organisation_id=own.organisation_id,
                subscription_id=own.subscription_id,
                cursor=cursor,
                replayed=replayed,
            )
            if await self._told(told):
                self._logged, self._logged_at = cursor, time.monotonic()
                del self.window.replayed[: len(replayed)]

    async def _bury(self) -> None:
        dying = self.window.dying[:PULL]
        if not dying:
            return
        own = self.created
        told = pb.ReportDeadDeliveriesRequest(
            organisation_id=own.organisation_id,
            subscription_id=own.subscription_id,
            letters=[letter_of(item) for item in dying],
        )
        if await self._told(told):
            del self.window.dying[: len(dying)]
            self.window.buried(dying)
            self.settled()

    async def _told(self, request: Message) -> bool:
        """Tell the log; False where it must be told again later."""
        try:
            await self._shell.tell_as_self(request)
        except (Failure, Rejected) as error:
            if error.code == "NOT_FOUND":
                raise Ended("it was deleted") from error
            self._shell.log.warning("the log was not told", reason=str(error))
            return False
        return True


def entry_of(item: Item) -> Entry:
    """The entry that a window's item holds."""
    assert isinstance(item.entry, Entry)
    return item.entry


def letter_of(item: Item) -> pb.DeadDelivery:
    """A dead letter."""
    event = entry_of(item).event
    return pb.DeadDelivery(
        number=item.letter,
        event_id=event.event_id,
        type=event.type,
        position=event.position,
        attempts=item.attempts,
        reason=item.reason,
    )
