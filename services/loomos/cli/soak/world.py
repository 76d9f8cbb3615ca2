"""Two resource managers, Kafka and Postgres under load, healed like a supervisor would.

1. What callers were told is kept over all rounds and compared with the whole log after each.
2. The read model is compared with a rebuild from the log; each hash tree with those seen before.
"""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from google.protobuf.message import Message

from loom.decider import Recorded
from loom.kit.config import Settings
from loom.kit.contract import Service
from loom.kit.owners import client_over
from loom.kit.rebuild import Followed, positions, rebuild
from loom.log.judge import Kind
from loom.log.reader import Judged, read_all, recorded
from loom.log.topics import Bus
from loom.store import Store
from loom.v1 import common_pb2
from loomos.cli.soak.load import Load, Outcome
from loomos.cli.soak.process import Process
from loomos.cli.soak.promises import Witness, broken_promises
from loomos.embedded.stores import Stores
from loomos.resource_manager.main import SERVICE

__all__ = [
    "TOPIC",
    "Broken",
    "World",
    "heal_stores",
    "instance",
    "read_partition",
    "relaunch_ended",
    "unlike_the_log",
]

TOPIC = SERVICE.topic
TELL_SECONDS = 6.0
HEAL_SECONDS = 0.5
START_SECONDS = 120.0
RECOVER_SECONDS = 90.0
"""A caller's breaker may rest for some seconds after a broker was away."""
BEFORE, AFTER = 50, 50
"""Commands that are answered before the fault, and after it."""


class Broken(Exception):
    """Promises that do not hold; one a line."""


class World:
    """The processes, and what callers were told since the beginning."""

    def __init__(self, stores: Stores, seed: int) -> None:
        self.stores = stores
        self.seed = seed
        self.environ = {
            "LOOMOS_HOME": str(stores.home.path),
            "LOOMOS_KAFKA": stores.bootstrap,
            "LOOMOS_CREDENTIALS": str(stores.home.credentials / SERVICE.name),
        }
        self.settings = Settings.load(SERVICE.name, self.environ)
        log = self.stores.home.logs
        self.instances = [
            instance(SERVICE.name, self.environ, log / f"{SERVICE.name}-{number}.log")
            for number in range(2)
        ]
        self.outcomes: dict[str, Outcome] = {}
        self.witness = Witness()
        self.rounds = 0

    def start(self) -> None:
        """Start both instances; the second waits for the first one's lease."""
        for one in self.instances:
            one.start()

    def stop(self) -> None:
        """Kill both instances."""
        for one in self.instances:
            one.kill()

    def heal_stores(self) -> None:
        """Start the stores again that have ended."""
        heal_stores(self.stores)

    def heal(self) -> None:
        """Start again whatever has ended."""
        self.heal_stores()
        for one in self.instances:
            if one.popen is not None and not one.running:
                one.start()

    def forget(self) -> None:
        """The stores are empty again: what was told before counts no more."""
        self.outcomes.clear()
        self.witness = Witness()

    @contextlib.asynccontextmanager
    async def loaded(self) -> AsyncIterator[Load]:
        """Callers at work; afterwards everything is checked, and Broken raised."""
        store = Store(self.settings.postgres, SERVICE.name.replace("-", "_"), connections_max=2)
        await store.open()
        client = client_over(self.settings, store)

        async def tell(request: Message, command_id: str) -> common_pb2.Receipt:
            answer = await client.tell(request, command_id=command_id, timeout_s=TELL_SECONDS)
            assert isinstance(answer, common_pb2.Receipt)
            return answer

        self.rounds += 1
        load = Load(tell, self.seed + self.rounds)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(store.close)
            stack.push_async_callback(client.close)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            healing = tasks.create_task(self._keep_healing())
            callers = tasks.create_task(load.run())
            await load.go_on(BEFORE, START_SECONDS)
            yield load
            await load.go_on(AFTER, RECOVER_SECONDS)
            load.stopping = True
            await callers
            await load.settle()
            self.outcomes |= load.outcomes
            await self.check(store)
            healing.cancel()

    async def check(self, store: Store) -> None:
        """Compare the log with what was told, the read model with the log; raises Broken."""
        records, events = await read_partition(self.settings, TOPIC)
        broken = broken_promises(self.outcomes, events)
        broken += self.witness.sees(TOPIC, 0, records)
        ends = {TOPIC: records[-1].offset + 1}
        broken += await unlike_the_log(SERVICE, self.settings, store, ends, RECOVER_SECONDS)
        if broken:
            raise Broken("\n".join(broken[:20]))

    async def _keep_healing(self) -> None:
        while True:
            await asyncio.sleep(HEAL_SECONDS)
            self.heal()


def instance(service: str, environ: Mapping[str, str], log: Path) -> Process:
    """A process of a service on a port of its own; it does not run yet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Process(service, {**environ, "LOOMOS_LISTEN": f"127.0.0.1:{port}"}, log)


def heal_stores(stores: Stores) -> None:
    """Start the stores again that have ended; returns when they answer."""
    relaunch_ended(stores)
    stores.wait()


def relaunch_ended(stores: Stores) -> bool:
    """Start the stores again that have ended, without waiting; False where none has."""
    ended = [name for name in ("kafka", "postgres") if not running(stores.process(name))]
    for name in ended:
        stores.relaunch(name)
    return bool(ended)


def running(process: subprocess.Popen[bytes] | None) -> bool:
    """True while a process that was started has not ended."""
    return process is not None and process.poll() is None


async def read_partition(settings: Bus, topic: str) -> tuple[list[Judged], list[Recorded]]:
    """The whole partition, judged, and its events."""
    found = await read_all(settings, topic)
    return found, [recorded(one, topic, 0) for one in found if one.verdict.kind == Kind.EVENT]


async def unlike_the_log(
    service: Service,
    settings: Settings,
    store: Store,
    ends: Mapping[str, int],
    seconds: float,
) -> list[str]:
    """The tables that a rebuild would make otherwise, once they have reached these offsets.

    TimeoutError where they do not reach them in time.
    """
    async with asyncio.timeout(seconds):
        while behind(await positions(store), ends):  # noqa: ASYNC110 - a projector is at work
            await asyncio.sleep(HEAL_SECONDS)
    compared = await rebuild(service, settings, store)
    return [
        f"table {service.name}.{one.table} is not what the log says"
        for one in compared
        if one.live != one.rebuilt
    ]


def behind(places: list[Followed], ends: Mapping[str, int]) -> bool:
    """True while some read model has not reached the end of its topic."""
    return any(place.base.offset < ends.get(place.topic, 0) for place in places)
