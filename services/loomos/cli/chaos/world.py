"""What is broken and healed: two instances of data, one of loomdb and of security, the stores.

1. Services reach Kafka and Postgres through lines of ours, so that a line can be cut; what the
   harness itself asks goes the same way, except for Postgres.
2. Whatever has ended is started again, as a supervisor would, unless a fault says otherwise.
3. Told to end, or broken, it leaves no process, no mount and no line.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from google.protobuf.message import Message

from loom.kit.config import Settings
from loom.store import Store
from loomos.cli.chaos.appends import ORGANISATIONS, Appends
from loomos.cli.chaos.disk import Disk, mounted
from loomos.cli.chaos.line import Line, LinedBroker, Mode
from loomos.cli.chaos.people import People
from loomos.cli.chaos.readers import Cursor, Durable
from loomos.cli.soak.load import Load, Outcome
from loomos.cli.soak.process import Process
from loomos.cli.soak.world import instance, relaunch_ended
from loomos.embedded.enrolment import mint
from loomos.embedded.home import Home
from loomos.embedded.process import Unusable
from loomos.embedded.services import ALL
from loomos.embedded.stores import Stores

__all__ = ["TOPIC", "World", "for_a_while", "store_of", "world"]

TOPIC = "loomos.data"
HEAL_SECONDS = 0.5
START_SECONDS = 120.0
RECOVER_SECONDS = 120.0
BEFORE, AFTER = 30, 30
"""Commands that are answered before a fault, and after it."""
CALLERS = 6
STARTS_MAX = 5
INSTANCES = ("security", "data", "data", "loomdb")


class World:
    """The processes, and what callers were told since the beginning."""

    def __init__(
        self,
        stores: Stores,
        broker: LinedBroker,
        disks: Mapping[str, Disk],
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.stores = stores
        self.say = say
        self.seed = seed
        self.disks = disks
        self.kafka_line = Line(broker.ports.services, seed)
        self.postgres_line = Line(stores.database.port, seed)
        broker.line = self.kafka_line
        self._healing = asyncio.Lock()
        self.script = Appends()
        self.outcomes: dict[str, Outcome] = {}
        self.requests: dict[str, Message] = {}
        self.rounds = 0
        self.starts = 0
        self.all: list[Process] = []

    def enter(self) -> None:
        """Once the stores stand: the processes, and who calls them."""
        names = [f"{name}-{number}" for number, name in enumerate(INSTANCES)]
        self.all = [
            instance(service, self.environ(service), self.stores.home.logs / f"{name}.log")
            for service, name in zip(INSTANCES, names, strict=True)
        ]
        self.people = People(Settings.load("gateway", self.environ("gateway", direct=True)))
        self.cursor = Cursor(self.people, ORGANISATIONS[0])
        self.durable = Durable(self.people, ORGANISATIONS[0])

    def environ(self, service: str, direct: bool = False) -> dict[str, str]:
        """The variables of a process; its Postgres lies behind the line."""
        folder = self.stores.home.credentials / service
        found = {
            "LOOMOS_HOME": str(self.stores.home.path),
            "LOOMOS_KAFKA": self.stores.bootstrap,
            "LOOMOS_CREDENTIALS": str(folder),
        }
        if not direct:
            parts = urlsplit((folder / "postgres.dsn").read_text().strip())
            login = parts.netloc.rpartition("@")[0]
            lined = parts._replace(netloc=f"{login}@127.0.0.1:{self.postgres_line.port}")
            found["LOOMOS_POSTGRES"] = urlunsplit(lined)
        return found

    def settings(self, service: str) -> Settings:
        """A process's settings, with its Postgres asked directly."""
        return Settings.load(service, self.environ(service, direct=True))

    def of(self, service: str) -> list[Process]:
        """The instances of a service."""
        return [one for one in self.all if one.service == service]

    async def owner(self, service: str) -> Process:
        """The instance that holds the partition, as its lease says."""
        address = await self.people.client.resolve(service, "")
        return next(
            (one for one in self.of(service) if one.settings.listen == address), self.of(service)[0]
        )

    async def stores_answer(self) -> None:
        """Start the stores that have ended; callers and readers go on until they answer."""
        if relaunch_ended(self.stores):
            await asyncio.to_thread(self.stores.wait)

    async def heal(self) -> None:
        """Start again whatever has ended."""
        await self.stores_answer()
        for one in self.all:
            if not one.running:
                self.starts += 1
                one.start()

    @contextlib.asynccontextmanager
    async def unhealed(self) -> AsyncIterator[None]:
        """Nothing is started by itself meanwhile."""
        async with self._healing:
            yield

    async def keep_healing(self) -> None:
        """Heal for as long as the run lasts."""
        failed = 0
        while True:
            try:
                async with self._healing:
                    await self.heal()
                failed = 0
            except Unusable:
                # As a supervisor: what does not start is started again, not for ever.
                failed += 1
                if failed > STARTS_MAX:
                    raise
            await asyncio.sleep(HEAL_SECONDS)

    @contextlib.asynccontextmanager
    async def loaded(self) -> AsyncIterator[Load]:
        """Appenders at work, before and after whatever is done meanwhile."""
        self.rounds += 1
        load = Load(self.people.append, self.seed + self.rounds, self.script, CALLERS)
        async with asyncio.TaskGroup() as tasks:
            callers = tasks.create_task(load.run())
            await load.go_on(BEFORE, START_SECONDS)
            yield load
            await load.go_on(AFTER, RECOVER_SECONDS)
            load.stopping = True
            await callers
            await load.settle(RECOVER_SECONDS)
        self.outcomes |= load.outcomes
        self.requests |= load.requests

    def stop(self) -> None:
        """Kill all of it and free what it held."""
        for one in self.all:
            if one.running:
                one.signal(signal.SIGCONT)
                one.kill()
        for process in (self.stores.broker.process, self.stores.database.process):
            if process is not None:
                process.send_signal(signal.SIGCONT)
        self.stores.stop()
        for line in (self.kafka_line, self.postgres_line):
            line.close()
        for disk in self.disks.values():
            disk.clear()
            disk.unmount()


@contextlib.asynccontextmanager
async def world(folder: Path, seed: int, say: Callable[[str], None]) -> AsyncIterator[World]:
    """A whole world in a folder, everybody known to everybody; nothing of it is left."""
    home = Home.open(folder)
    stores = Stores(home, {})
    known = stores.broker
    broker = LinedBroker(known.folder, home.logs, known.ports, stores.authority)
    stores.broker = broker
    places = {"kafka": broker.folder / "data", "postgres": stores.database.folder}
    disks, why = mounted({folder / f"{name}.img": at for name, at in places.items()})
    if why:
        say(f"not run: disks full: {why}")
    made = World(stores, broker, dict(zip(places, disks, strict=bool(disks))), seed, say)
    try:
        stores.launch(say)
        await asyncio.to_thread(stores.wait)
        # Making users and topics runs a loop of its own.
        await asyncio.to_thread(stores.provision, ALL)
        made.enter()
        token = mint(home)
        await made.heal()
        # Of data's two instances one serves and the other waits for its lease.
        for one in (*made.of("security"), *made.of("loomdb")):
            await one.healthy(START_SECONDS)
        await made.people.found(token)
        await made.durable.found()
        async with asyncio.TaskGroup() as tasks:
            beside = [
                tasks.create_task(work)
                for work in (made.keep_healing(), made.cursor.run(), made.durable.run())
            ]
            try:
                yield made
            finally:
                for task in beside:
                    task.cancel()
        await made.people.close()
    finally:
        made.stop()


async def store_of(made: World, service: str) -> Store:
    """A service's schema, opened by the harness."""
    found = Store(made.settings(service).postgres, service.replace("-", "_"), connections_max=2)
    await found.open()
    return found


async def for_a_while(line: Line, mode: Mode, seconds: float) -> None:
    """A line as told for so long, and open again."""
    line.set(mode)
    try:
        await asyncio.sleep(seconds)
    finally:
        line.set(Mode.OPEN)
