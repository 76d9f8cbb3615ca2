"""Starts Kafka, Postgres and all services of one home, and keeps them running until told to stop.

1. All or nothing: what hinders the first start is one line, and nothing stays running.
2. `state.json` is there exactly while a supervisor is at work; processes that outlive a killed one
   die by the kernel's signal or are stopped by the next.
3. Certificates are renewed at half their life and logs are capped; neither restarts anybody.
"""

import asyncio
import contextlib
import ctypes
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loom.kit.authority import write_secret
from loom.kit.config import InvalidSetting, Settings, default_home
from loom.log.access import AccessFailed
from loom.log.topics import KafkaError
from loomos.embedded.children import Child, Children
from loomos.embedded.enrolment import mint
from loomos.embedded.health import until_healthy
from loomos.embedded.home import Home
from loomos.embedded.logs import cap
from loomos.embedded.process import Unusable, mark, tail
from loomos.embedded.services import found
from loomos.embedded.stores import Stores

__all__ = ["AlreadyRunning", "Stopped", "Supervisor", "main"]

HEALTHY_SECONDS = 120.0
ENDS_MAX_AT_FIRST = 3
CHORES_SECONDS = 30.0
FEEDS_SECONDS = 1.0
STORE_PAUSE_SECONDS_MAX = 30.0
SUPERVISOR = "supervisor"


class AlreadyRunning(Exception):
    """Another supervisor holds this home."""


class Stopped(BaseException):
    """SIGTERM or SIGINT came before the loops ran."""


class Supervisor:
    """One home's processes."""

    def __init__(
        self, home: Home, environ: Mapping[str, str], say: Callable[[str, str], None]
    ) -> None:
        self.home = home
        self.environ = {key: value for key, value in environ.items() if key not in STORES_OWN}
        self.say = say
        self.stores = Stores(home, environ)
        self.services = chosen(environ.get("LOOMOS_SERVICES", ""))
        self.children = Children(home.logs / "zygote.log", self.note_state)
        self.ports = home.ports([name for one in self.services for name in port_names(one)])
        self.stopping = asyncio.Event()
        self.enrolment = ""

    def start_stores(self) -> None:
        """Start Kafka and Postgres and make in them what services need."""
        self.home.check_ports(self.ports)
        self.stores.launch(lambda line: self.say("stores", line))
        self.write_state()
        self.children.spawn()
        self.say("stores", "waiting for Kafka and PostgreSQL")
        self.stores.wait()
        self.say("stores", "users, rights and topics")
        self.stores.provision((*self.services, SUPERVISOR))
        self.say("stores", "healthy")
        self.enrolment = mint(self.home) if "security" in self.services else ""

    async def run(self) -> None:
        """Run the services until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        stop = asyncio.create_task(self.stopping.wait())
        work = asyncio.create_task(self.work())
        await asyncio.wait((stop, work), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if work.done():
            work.result()
        self.say("down", "stopping services")
        work.cancel()
        await asyncio.wait((work,))
        listening = asyncio.create_task(self.children.listen())
        await self.children.stop()
        listening.cancel()

    async def work(self) -> None:
        """All loops; ends only by an error."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.children.listen())
                keeping = [
                    Child(one, self.service_environ(one), self.log(one)) for one in self.services
                ]
                for child in keeping:
                    tasks.create_task(self.children.keep(child))
                if not self.stores.given_kafka:
                    tasks.create_task(self.keep_store("kafka"))
                if not self.stores.given_postgres:
                    tasks.create_task(self.keep_store("postgres"))
                tasks.create_task(self.first_health(keeping, tasks))
                tasks.create_task(self.chores())
                tasks.create_task(self.keep_feeds())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    async def first_health(self, keeping: list[Child], tasks: asyncio.TaskGroup) -> None:
        """Tell as each service becomes healthy; raises Unusable where one does not."""
        waits = {asyncio.create_task(self.await_health(child)): child for child in keeping}
        deadline = asyncio.get_running_loop().time() + HEALTHY_SECONDS
        pending = set(waits)
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=0.5, return_when=asyncio.FIRST_COMPLETED
            )
            for one in done:
                self.say(waits[one].service, "healthy")
            late = asyncio.get_running_loop().time() > deadline
            for child in (waits[one] for one in pending):
                if late or child.restarts >= ENDS_MAX_AT_FIRST:
                    why = (
                        f"ended with status {child.status}" if child.restarts else "is not healthy"
                    )
                    line = f"{child.service} {why}: {tail(child.log)} (see {child.log})"
                    raise Unusable(line)
        if self.enrolment:
            self.say("enrolment", self.enrolment)
        self.say("up", "healthy")
        for child in keeping:
            tasks.create_task(self.later_health(child))

    async def await_health(self, child: Child) -> None:
        """Return when the service serves, and note it."""
        await until_healthy(self.probe(), f"127.0.0.1:{self.ports[child.service]}")
        child.healthy = True
        self.note_state()

    async def later_health(self, child: Child) -> None:
        """Note the health of a service that was started again."""
        while True:
            await child.ended.wait()
            await child.started.wait()
            await self.await_health(child)

    async def keep_store(self, name: str) -> None:
        """Start a store's process again whenever it ends."""
        pause = 0.1
        while True:
            process = self.stores.process(name)
            assert process is not None
            started = asyncio.get_running_loop().time()
            await ended(process.pid)
            process.wait()
            if asyncio.get_running_loop().time() - started > STORE_PAUSE_SECONDS_MAX:
                pause = 0.1
            await asyncio.sleep(pause)
            pause = min(pause * 2, STORE_PAUSE_SECONDS_MAX)
            with contextlib.suppress(Unusable):
                self.stores.relaunch(name)
            self.note_state()

    async def chores(self) -> None:
        """Renew certificates and cap logs, now and then."""
        while True:
            await asyncio.sleep(CHORES_SECONDS)
            with contextlib.suppress(OSError):
                cap(self.home.logs)
                for service in (*self.services, SUPERVISOR):
                    folder = self.home.credentials / service
                    self.stores.authority.renew_if_due(folder, "service", service)

    async def keep_feeds(self) -> None:
        """Give organisations the topics and certificates of feeds that they switched on."""
        assert self.stores.feeds is not None
        while True:
            # Kafka may be away for a while; what is wanted stays wanted.
            with contextlib.suppress(OSError, KafkaError, AccessFailed):
                await self.stores.feeds.keep(self.stores.administrator(), self.feed_bootstrap)
            await asyncio.sleep(FEEDS_SECONDS)

    @property
    def feed_bootstrap(self) -> str:
        """Where clients with a certificate reach Kafka."""
        return self.stores.given_kafka or self.stores.broker.ssl_bootstrap

    def probe(self) -> Settings:
        """The supervisor's own credentials, for asking services for their health."""
        return Settings.load(SUPERVISOR, {"LOOMOS_HOME": str(self.home.path)})

    def log(self, service: str) -> Path:
        """A service's log."""
        return self.home.logs / f"{service}.log"

    def service_environ(self, service: str) -> dict[str, str]:
        """A service's variables: ours, with its own addresses and credentials."""
        given = {
            "LOOMOS_HOME": str(self.home.path),
            "LOOMOS_CREDENTIALS": str(self.home.credentials / service),
            "LOOMOS_KAFKA": self.stores.bootstrap,
            "LOOMOS_LISTEN": f"127.0.0.1:{self.ports[service]}",
            "LOOMOS_METRICS_LISTEN": f"127.0.0.1:{self.ports[f'{service}-metrics']}",
        }
        if service == "gateway":
            given["LOOMOS_GATEWAY_LISTEN"] = f"127.0.0.1:{self.ports['gateway-rest']}"
        if service == "runtime":
            given["LOOMOS_INFERENCE_REST"] = f"127.0.0.1:{self.ports['runtime-rest']}"
            given["LOOMOS_INFERENCE_GRPC"] = f"127.0.0.1:{self.ports['runtime-grpc']}"
        if service == "security":
            given["LOOMOS_AUTHORITY"] = str(self.home.authority)
        return self.environ | given

    def note_state(self) -> None:
        """Write the state; a full disk must not stop what runs."""
        with contextlib.suppress(OSError):
            self.write_state()

    def write_state(self) -> None:
        """Tell everyone what runs where."""
        listening = {
            child.service: {
                "pid": child.pid,
                "address": f"127.0.0.1:{self.ports[child.service]}",
                "metrics": f"127.0.0.1:{self.ports[f'{child.service}-metrics']}",
                "healthy": child.healthy,
                "restarts": child.restarts,
            }
            for child in self.children.services.values()
        }
        state: dict[str, Any] = {
            "version": 1,
            "supervisor": {"pid": os.getpid(), "mark": mark(os.getpid())},
            **self.stores.state(),
            "services": listening,
            "ca": str(self.home.authority / "ca.crt"),
        }
        if "gateway" in listening:
            # People's door; services find the others by `services`.
            state["gateway"] = f"https://127.0.0.1:{self.ports['gateway-rest']}"
        if "runtime" in listening:
            state["inference"] = {
                "rest": f"https://127.0.0.1:{self.ports['runtime-rest']}",
                "grpc": f"127.0.0.1:{self.ports['runtime-grpc']}",
            }
        self.home.write_state(state)


STORES_OWN = ("LOOMOS_POSTGRES", "LOOMOS_KAFKA", "LOOMOS_CREDENTIALS")
"""What names the administrator's way in: services get their own."""


def chosen(names: str) -> tuple[str, ...]:
    """The services to run here: those named, by commas, or all that are installed."""
    installed = found()
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in installed:
            raise Unusable(f"LOOMOS_SERVICES names {name!r}: installed are {', '.join(installed)}")
    return tuple(name for name in installed if not wanted or name in wanted)


def port_names(service: str) -> list[str]:
    """The ports that a service listens on."""
    doors = {"gateway": ["gateway-rest"], "runtime": ["runtime-rest", "runtime-grpc"]}
    return [service, f"{service}-metrics", *doors.get(service, [])]


async def ended(pid: int) -> None:
    """Return when our child is dead, without polling."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)
    dead = asyncio.Event()
    loop.add_reader(descriptor, dead.set)
    try:
        await dead.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def supervise(path: Path, environ: Mapping[str, str], say: Callable[[str, str], None]) -> None:
    """Run the platform of a home until SIGTERM; raises Unusable or AlreadyRunning."""
    home = Home.open(path)
    lock = home.lock()
    if lock is None:
        raise AlreadyRunning
    log_to(home.logs / "supervisor.log")
    write_secret(home.path / "supervisor.pid", mark(os.getpid()))
    with lock, stop_raises(), one_line(path):
        supervisor = Supervisor(home, environ, say)
        try:
            supervisor.start_stores()
            asyncio.run(supervisor.run())
        except Stopped:
            say("down", "told to stop")
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            supervisor.children.close()
            say("down", "stopping Kafka and PostgreSQL")
            supervisor.stores.stop()
            home.clear_state()


def log_to(path: Path) -> None:
    """Let what this process prints from here on go to its log, not to who started it."""
    with path.open("ab") as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)


@contextlib.contextmanager
def stop_raises() -> Iterator[None]:
    """Let a signal end what runs before the loops do."""

    def stop(*_: object) -> None:
        raise Stopped

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    yield


@contextlib.contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn what an operator can mend into one line."""
    try:
        yield
    except InvalidSetting as error:
        raise Unusable(str(error)) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        raise Unusable(f"LOOMOS_HOME {path} cannot be written: {error.strerror}") from error


def main(arguments: Sequence[str]) -> int:
    """The supervisor's process: progress goes as JSON lines to the descriptor given.

    A second number is the pid of who watches in the foreground: it stops when that one dies.
    """
    if len(arguments) > 1:
        ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != int(arguments[1]):
            return 1
    out = os.fdopen(int(arguments[0]), "w", buffering=1) if arguments else sys.stdout

    def say(step: str, line: str) -> None:
        # Whoever watched the start may be gone; the supervisor goes on.
        with contextlib.suppress(OSError, ValueError):
            out.write(json.dumps({"step": step, "line": line}) + "\n")
            out.flush()

    home = Path(os.environ.get("LOOMOS_HOME") or default_home(os.environ)).absolute()
    try:
        supervise(home, os.environ, say)
    except AlreadyRunning:
        say("running", "already running")
        return 3
    except Unusable as error:
        say("failed", str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
