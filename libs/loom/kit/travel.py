"""Answers queries as of a moment: `as_of` on every read model of a service (ADR 0018).

1. The query itself does not know: it runs on tables that hold what the log held at the moment.
2. Those tables are made off the loop that decides, one at a time, within a bound of events; a call
   waits a little and is then told how far it is, and the next one finds it further.
3. Who may read is decided by today's rights; a moment named by an event or a position must be one
   that the caller may see, else it is answered like an unknown one.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from loom.decider import Position
from loom.kit import scratch
from loom.kit.call import Headers
from loom.kit.caller import Caller
from loom.kit.changes import changes_between
from loom.kit.client import Client
from loom.kit.config import Settings, whole
from loom.kit.contract import Service
from loom.kit.cut import Edges, TooMuch, moment_of
from loom.kit.errors import TRAVELLING, Failure, shown
from loom.log.reader import LogAway
from loom.store import Connection, Store
from loom.v1 import common_pb2, loomdb_pb2, travel_pb2

__all__ = ["Travels"]

EVENTS_MAX = 5_000_000
WAIT_S = 4.0
ASK_S = 5.0
TRIPS_MAX = 8
CUTS_MAX = 256
TOUCH_S = 60.0
SWEEP_S = 60.0


class Ended(Exception):
    """The process ends, and with it what it was making."""


@dataclass(slots=True, eq=False)
class Trip:
    """The making of one moment's tables."""

    done: int = 0
    of: int = 0
    """Events to project; 0 while they are being counted."""
    task: asyncio.Task[str] | None = None

    def progress(self) -> str:
        """How far it is, for people."""
        if not self.of:
            return f"{self.done} events looked through"
        return f"{min(self.done, self.of)} of {self.of} events replayed"


class Travels:
    """The moments that a process looks back to."""

    def __init__(self, service: Service, settings: Settings, store: Store, client: Client) -> None:
        self._service = service
        self._settings = settings
        self._store = store
        self._client = client
        self._edges = Edges(settings, (service.topic, *service.follows))
        self._events_max = whole(
            "LOOMOS_AS_OF_EVENTS_MAX", settings.environ, EVENTS_MAX, 1, 999_999_999
        )
        self._trips: dict[int, Trip] = {}
        self._names: OrderedDict[int, str] = OrderedDict()
        """The schema of each time whose cut is final."""
        self._touched: dict[str, float] = {}
        self._turn = asyncio.Semaphore(1)
        self._ended = False

    @asynccontextmanager
    async def db(self, as_of: str, caller: Caller, action: str) -> AsyncIterator[Connection]:
        """A connection to the read models as they were; raises Failure."""
        at_us = await self.time_of(as_of, caller, action)
        async with self.at(at_us) as connection:
            yield connection

    @asynccontextmanager
    async def at(self, at_us: int) -> AsyncIterator[Connection]:
        """A connection to the read models as they were at a time; raises Failure."""
        for _ in range(2):
            name = await self.schema_at(at_us)
            async with scratch.opened(self._store, name, at_us=at_us) as connection:
                if connection is not None:
                    yield connection
                    return
            # Dropped by another process in between.
            self._names.pop(at_us, None)
        raise dropped()

    async def changes(self, request: travel_pb2.ListChangesRequest) -> travel_pb2.Changes:
        """What changed in the read models between two times; raises Failure or Rejected."""
        if request.to_us < request.from_us:
            told = f"to_us is {request.to_us}, earlier than from_us {request.from_us}"
            raise Failure("INVALID_ARGUMENT", told, "to_us")
        # The earlier one first: the later one is copied from it and goes on.
        earlier = await self.schema_at(request.from_us)
        later = await self.schema_at(request.to_us)
        async with scratch.opened(self._store, later, earlier) as connection:
            if connection is None:
                raise dropped()
            name = self._service.name
            return await changes_between(request, name, earlier, later, connection)

    async def time_of(self, as_of: str, caller: Caller, action: str, field: str = "as_of") -> int:
        """The time that a moment comes down to; raises Failure where the caller may not know it."""
        moment = moment_of(as_of, field)
        match moment:
            case int():
                return moment
            case Position():
                place = common_pb2.Position(
                    topic=moment.topic,
                    partition=moment.partition,
                    offset=moment.offset,
                    incarnation=moment.incarnation,
                )
                request = loomdb_pb2.GetMomentRequest(position=place)
            case _:
                request = loomdb_pb2.GetMomentRequest(event_id=moment)
        unknown = Failure("NOT_FOUND", f"{field} is {shown(as_of)}: no such event", field)
        try:
            answer = await self._client.call(request, Headers(), ASK_S)
        except Failure as failure:
            if failure.code == "NOT_FOUND":
                raise unknown from failure
            raise
        found = cast(loomdb_pb2.Moment, answer)
        if not sees(caller, action, found) and not sees(caller, "GetEvent", found):
            raise unknown
        return found.at_us

    async def schema_at(self, at_us: int) -> str:
        """The schema of a time, made where it does not stand; Failure while it is being made."""
        name = self._names.get(at_us)
        if name is None:
            name = await self._waited(at_us, self._trip(at_us))
        if time.monotonic() - self._touched.get(name, float("-inf")) > TOUCH_S:
            self._touched[name] = time.monotonic()
            await scratch.touch(self._store, name)
        return name

    def _trip(self, at_us: int) -> Trip:
        trip = self._trips.get(at_us)
        if trip is None:
            if len(self._trips) >= TRIPS_MAX:
                told = f"{TRIPS_MAX} other moments are being made already: retry when they are done"
                raise Failure("RESOURCE_EXHAUSTED", told)
            trip = self._trips[at_us] = Trip()
            trip.task = asyncio.create_task(self._travel(at_us, trip))
            trip.task.add_done_callback(lambda task: self._arrived(at_us, task))
        return trip

    def _arrived(self, at_us: int, task: asyncio.Task[str]) -> None:
        self._trips.pop(at_us, None)
        if not task.cancelled():
            # Nobody may be waiting for it any more.
            task.exception()

    async def _waited(self, at_us: int, trip: Trip) -> str:
        assert trip.task is not None
        done, _ = await asyncio.wait((trip.task,), timeout=WAIT_S)
        if not done:
            raise Failure(
                "UNAVAILABLE",
                f"the read models as of that moment are being made: {trip.progress()}; ask again",
                reason=TRAVELLING,
                details={"done": str(trip.done), "of": str(trip.of)},
            )
        return trip.task.result()

    async def _travel(self, at_us: int, trip: Trip) -> str:
        async with self._turn:
            # A thread with a loop of its own: decisions go on meanwhile.
            name, final = await asyncio.to_thread(lambda: asyncio.run(self._journey(at_us, trip)))
        if final:
            self._names[at_us] = name
            while len(self._names) > CUTS_MAX:
                self._names.popitem(last=False)
        await scratch.sweep(self._store)
        return name

    async def _journey(self, at_us: int, trip: Trip) -> tuple[str, bool]:
        def progress(events: int) -> None:
            trip.done += events
            if self._ended:
                raise Ended

        store = Store(self._settings.postgres, self._store.schema, connections_max=1)
        await store.open()
        try:
            cut = await self._edges.cut(at_us, progress, self._events_max)
            trip.done, trip.of = 0, max(1, cut.events)
            name = await scratch.build(self._service, self._settings, store, cut, progress)
        except TooMuch as error:
            raise Failure("FAILED_PRECONDITION", self._too_much(), "as_of") from error
        except LogAway as error:
            raise Failure("UNAVAILABLE", "the log cannot be read now: retry") from error
        finally:
            await store.close()
        return name, cut.final

    def _too_much(self) -> str:
        return (
            f"{self._service.name} had more than {self._events_max} events by then, the most that "
            "are replayed for a question: ask for an earlier moment, or have an operator raise "
            "LOOMOS_AS_OF_EVENTS_MAX"
        )

    async def tidy(self) -> None:
        """Drop what nobody has looked at for a while, for ever."""
        while True:
            for name in await scratch.sweep(self._store):
                self._touched.pop(name, None)
            await asyncio.sleep(SWEEP_S)

    async def stop(self) -> None:
        """Give up what is being made."""
        self._ended = True
        tasks = [trip.task for trip in self._trips.values() if trip.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)


def dropped() -> Failure:
    """Tables of a moment went between their making and their use."""
    return Failure("UNAVAILABLE", "the tables of that moment were dropped meanwhile: retry")


def sees(caller: Caller, action: str, found: loomdb_pb2.Moment) -> bool:
    """Whether the caller may know of an event; what concerns the platform only is no secret."""
    scope = caller.scope(action)
    organisation = found.project_id.partition(".")[0] or found.organisation_id
    return (
        scope.all
        or not organisation
        or organisation in scope.organisations
        or found.project_id in scope.projects
    )
