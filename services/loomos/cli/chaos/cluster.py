"""`loomos chaos cluster`: three small brokers, three replicas, two of them needed, and an appender.

1. A broker that dies or hands over its lead costs time, never an acknowledged event.
2. With too few in sync nothing is acknowledged: callers hear UNAVAILABLE, the outcome unknown; when
   brokers are back, all goes on without a hand.
3. Who asks for more copies than there are is refused, with the numbers found.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from google.protobuf.message import Message

from loom.kit.authority import Authority, write_secret
from loom.kit.config import Settings
from loom.log.topics import KafkaError, connection
from loomos.cli.chaos.appends import Appends
from loomos.cli.chaos.people import People
from loomos.cli.chaos.told import broken_causes, broken_ids
from loomos.cli.soak.load import Load, Outcome
from loomos.cli.soak.promises import Witness, broken_promises
from loomos.cli.soak.world import Broken, instance, read_partition
from loomos.embedded.enrolment import mint
from loomos.embedded.home import Home
from loomos.embedded.kafka import ADMIN, Broker, Ports
from loomos.embedded.services import ALL
from loomos.embedded.stores import Stores

__all__ = ["Cluster", "cluster"]

TOPIC = "loomos.data"
MEMBERS = 3
ANSWERS = 20
START_SECONDS = 180.0
RECOVER_SECONDS = 120.0
POLL_SECONDS = 0.3
CALLERS = 4
INSTANCES = ("security", "data")

REPLICATED = """\
node.id={node}
controller.quorum.voters={voters}
default.replication.factor=3
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
replica.lag.time.max.ms=3000
controlled.shutdown.enable=true
"""


class Member(Broker):
    """One of three nodes; of a setting that stands twice, the last one counts."""

    def __init__(
        self, folder: Path, logs: Path, ports: Ports, authority: Authority, node: int, voters: str
    ) -> None:
        super().__init__(folder, logs, ports, authority)
        self.node = node
        self.voters = voters
        self.shared: tuple[str, str] = ("", "")

    def identity(self) -> tuple[str, str]:
        """The cluster's id and password, the same for all three."""
        return self.shared

    def configure(self) -> None:
        """As the broker of `loomos up`, as one of three."""
        super().configure()
        path = self.folder / "server.properties"
        told = REPLICATED.format(node=self.node, voters=self.voters)
        write_secret(path, path.read_text() + told)

    @property
    def alive(self) -> bool:
        """True while its process runs."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Cluster:
    """Three brokers, a Postgres, one instance each of security and data."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self.home = Home.open(folder)
        names = [f"{kind}-{node}" for node in range(1, MEMBERS + 1) for kind in ("s", "a", "c")]
        ports = self.home.ports([*names, "postgres"])
        voters = ",".join(f"{n}@127.0.0.1:{ports[f'c-{n}']}" for n in range(1, MEMBERS + 1))
        authority = Authority.open(self.home.authority)
        self.members: list[Member] = []
        for node in range(1, MEMBERS + 1):
            logs = self.home.logs / f"kafka-{node}"
            logs.mkdir(mode=0o700, exist_ok=True)
            own = Ports(ports[f"s-{node}"], ports[f"a-{node}"], ports[f"c-{node}"])
            at = folder / f"kafka-{node}"
            self.members.append(Member(at, logs, own, authority, node, voters))
        shared = Broker.identity(self.members[0])
        for one in self.members:
            one.shared = shared
        admin = self.home.credentials / "admin"
        admin.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(admin / "kafka.user", f"{ADMIN}\n{shared[1]}\n")
        self.bootstrap = ",".join(one.bootstrap for one in self.members)
        self.stores = Stores(self.home, {"LOOMOS_KAFKA": self.bootstrap})
        self.script = Appends()
        self.outcomes: dict[str, Outcome] = {}
        self.requests: dict[str, Message] = {}
        self.witness = Witness()
        self.rounds = 0

    def enter(self) -> None:
        """Once the stores stand: the processes, and who calls them."""
        self.all = [
            instance(name, self.environ(name), self.home.logs / f"{name}.log") for name in INSTANCES
        ]
        self.people = People(self.settings("gateway"))

    def environ(self, service: str) -> dict[str, str]:
        """The variables of a process."""
        return {
            "LOOMOS_HOME": str(self.home.path),
            "LOOMOS_KAFKA": self.bootstrap,
            "LOOMOS_CREDENTIALS": str(self.home.credentials / service),
        }

    def settings(self, service: str) -> Settings:
        """A process's settings."""
        return Settings.load(service, self.environ(service))

    async def keep_healing(self) -> None:
        """Start services again that have ended; brokers come back when the fault says so."""
        while True:
            for one in self.all:
                if not one.running:
                    one.start()
            await asyncio.sleep(POLL_SECONDS)

    async def state(self) -> tuple[int, list[int]]:
        """The partition's leader, and who is in sync; asked again while brokers come and go."""
        async with asyncio.timeout(RECOVER_SECONDS):
            while True:
                admin = AIOKafkaAdminClient(**connection(self.stores.administrator()))
                try:
                    await admin.start()
                    (told,) = await admin.describe_topics([TOPIC])
                    (found,) = told["partitions"]
                    # Minus one while nobody leads.
                    if found["leader"] > 0:
                        return found["leader"], sorted(found["isr"])
                except (KafkaError, OSError, ValueError, KeyError):
                    pass
                finally:
                    await admin.close()
                await asyncio.sleep(POLL_SECONDS)

    async def leader(self) -> Member:
        """Who leads the partition."""
        number, _ = await self.state()
        return self.members[number - 1]

    async def whole(self) -> None:
        """Start what is missing, and return when all three are in sync."""
        async with asyncio.timeout(RECOVER_SECONDS):
            while True:
                # One that was told to end may only now have done so.
                for one in self.members:
                    if not one.alive:
                        one.launch(quiet)
                if (await self.state())[1] == [1, 2, 3]:
                    return
                await asyncio.sleep(POLL_SECONDS)

    @contextlib.asynccontextmanager
    async def loaded(self) -> AsyncIterator[Load]:
        """Appenders at work; afterwards what they were told is compared with the log."""
        self.rounds += 1
        load = Load(self.people.append, self.seed + self.rounds, self.script, CALLERS)
        async with asyncio.TaskGroup() as tasks:
            callers = tasks.create_task(load.run())
            await load.go_on(ANSWERS, START_SECONDS)
            yield load
            await self.whole()
            await load.go_on(ANSWERS, RECOVER_SECONDS)
            load.stopping = True
            await callers
            await load.settle(RECOVER_SECONDS)
        self.outcomes |= load.outcomes
        self.requests |= load.requests
        records, events = await read_partition(self.settings("data"), TOPIC)
        broken = broken_promises(self.outcomes, events) + self.witness.sees(TOPIC, 0, records)
        broken += broken_ids(self.requests, self.outcomes, events) + broken_causes(events)
        if broken:
            raise Broken("\n".join(broken[:20]))

    def stop(self) -> None:
        """Kill all of it."""
        for one in self.all:
            one.kill()
        for one in self.members:
            if one.process is not None:
                one.process.send_signal(signal.SIGCONT)
                one.kill()
        self.stores.stop()


@contextlib.asynccontextmanager
async def cluster(folder: Path, seed: int, say: Callable[[str], None]) -> AsyncIterator[Cluster]:
    """Three brokers up, everybody known; nothing of it is left."""
    made = Cluster(folder, seed)
    made.all = []
    try:
        for one in made.members:
            one.launch(say)
        made.stores.launch(say)
        # In threads: who is told to end meanwhile must hear it.
        for one in made.members:
            await asyncio.to_thread(one.wait, START_SECONDS)
        await asyncio.to_thread(made.stores.wait)
        await asyncio.to_thread(made.stores.provision, ALL)
        made.enter()
        token = mint(made.home)
        async with asyncio.TaskGroup() as tasks:
            healing = tasks.create_task(made.keep_healing())
            try:
                await made.people.found(token)
                await made.whole()
                yield made
            finally:
                healing.cancel()
                await made.people.close()
    finally:
        made.stop()


def quiet(line: str) -> None:
    """Nobody wants to hear it."""
