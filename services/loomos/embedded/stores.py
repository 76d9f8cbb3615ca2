"""Kafka and Postgres for one home: our own processes, or given ones; then users, rights, topics.

1. LOOMOS_KAFKA and LOOMOS_POSTGRES name given ones; then nothing of ours starts. What is made in
   them afterwards is the same code for both.
2. Every service has a folder of credentials: certificate, Kafka user, database role; passwords are
   made once and never leave it.
3. Processes that a killed supervisor left are stopped by their marks before new ones start.
"""

import asyncio
import secrets
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loom.kit.authority import Authority, write_secret
from loom.log import access, topics
from loom.log.providers.file import found as found_keys
from loomos.embedded import postgres
from loomos.embedded.feeds import Feeds, feeds_wanted
from loomos.embedded.home import Home
from loomos.embedded.kafka import ADMIN, Broker, Ports
from loomos.embedded.process import Unusable, mark, stop_marked

__all__ = ["Administrator", "Stores", "stop_left"]

AUDITED = "loomdb"
"""The service whose tables auditors ask, by a role of their own."""
AUDITORS_DSN = "auditor.dsn"
PORTS = ["kafka", "kafka-agents", "kafka-controller", "postgres"]
ACCESS_SECONDS = 60.0
LEFT_SECONDS = 20.0
Say = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Administrator:
    """How the supervisor enters Kafka to make users, rules and topics (a `topics.Bus`)."""

    kafka: str
    kafka_password: str
    folder: Path
    partitions: int = 1
    kafka_user: str = ADMIN
    kafka_security: str = "SASL_PLAINTEXT"

    @property
    def tls_certificate(self) -> Path:
        """The administrator's certificate, where the given Kafka wants one."""
        return self.folder / "tls.crt"

    @property
    def tls_key(self) -> Path:
        """The key of `tls_certificate`."""
        return self.folder / "tls.key"

    @property
    def ca_certificate(self) -> Path:
        """Whom the administrator trusts."""
        return self.folder / "ca.crt"


class Stores:
    """The two stores of one home."""

    def __init__(self, home: Home, environ: Mapping[str, str]) -> None:
        self.home = home
        self.authority = Authority.open(home.authority)
        self.given_kafka = environ.get("LOOMOS_KAFKA", "")
        self.given_postgres = environ.get("LOOMOS_POSTGRES", "")
        self.partitions = int(environ.get("LOOMOS_PARTITIONS", "1"))
        self.security = environ.get("LOOMOS_KAFKA_SECURITY", "SASL_PLAINTEXT")
        self.key_provider = environ.get("LOOMOS_KEY_PROVIDER", "file")
        ports = home.ports(PORTS)
        listeners = Ports(ports["kafka"], ports["kafka-agents"], ports["kafka-controller"])
        self.ports = ports
        self.feeds: Feeds | None = None
        """The feeds' keeper, once there are users for it to leave as they are."""
        self.broker = Broker(home.path / "kafka", home.logs, listeners, self.authority)
        self.database = postgres.Postgres(home.path / "postgres", home.logs, ports["postgres"])

    @property
    def bootstrap(self) -> str:
        """Where services reach Kafka."""
        return self.given_kafka or self.broker.bootstrap

    def launch(self, say: Callable[[str], None]) -> None:
        """Start what is ours; returns before it answers."""
        stop_left(self.home, say)
        ours = {
            name: port
            for name, port in self.ports.items()
            if not (self.given_postgres if name == "postgres" else self.given_kafka)
        }
        self.home.check_ports(ours)
        if not self.given_kafka:
            self.launch_kafka(say)
        if not self.given_postgres:
            self.launch_postgres(say)

    def launch_kafka(self, say: Say = lambda _: None) -> None:
        """Start our broker and note its mark."""
        self.broker.launch(say)
        assert self.broker.process is not None
        write_secret(self.home.path / "kafka.pid", mark(self.broker.process.pid))

    def launch_postgres(self, say: Say = lambda _: None) -> None:
        """Start our database server and note its mark."""
        if not self.database.data.exists():
            say("making PostgreSQL's cluster")
        self.database.launch()
        assert self.database.process is not None
        write_secret(self.home.path / "postgres.pid", mark(self.database.process.pid))

    def process(self, name: str) -> subprocess.Popen[bytes] | None:
        """The process of a store of ours."""
        return self.database.process if name == "postgres" else self.broker.process

    def relaunch(self, name: str) -> None:
        """Start a store's process again."""
        if name == "postgres":
            self.launch_postgres()
        else:
            self.launch_kafka()

    def state(self) -> dict[str, Any]:
        """What `state.json` tells about the stores."""
        found: dict[str, Any] = {"kafka": {"bootstrap": self.bootstrap}}
        if self.broker.process is not None:
            found["kafka"]["ssl_bootstrap"] = self.broker.ssl_bootstrap
            found["kafka"]["pid"] = self.broker.process.pid
        if self.database.process is not None:
            port, pid = self.database.port, self.database.process.pid
            found["postgres"] = {"host": "127.0.0.1", "port": port, "pid": pid}
        return found

    def wait(self) -> None:
        """Return when what is ours answers."""
        if not self.given_postgres:
            self.database.wait()
        if not self.given_kafka:
            self.broker.wait()

    def stop(self) -> None:
        """Stop what is ours, Kafka first."""
        self.broker.stop()
        self.database.stop()
        for name in ("kafka", "postgres"):
            (self.home.path / f"{name}.pid").unlink(missing_ok=True)

    def administrator(self) -> Administrator:
        """The way into Kafka for setting up; a given one's password lies in `credentials/admin`."""
        folder = self.home.credentials / "admin"
        if not self.given_kafka:
            return Administrator(
                self.broker.bootstrap, self.broker.password, folder, self.partitions
            )
        if self.security == "SSL":
            return Administrator(self.given_kafka, "", folder, self.partitions, "", "SSL")
        path = folder / "kafka.user"
        if not path.exists():
            raise Unusable(
                f"LOOMOS_KAFKA is {self.given_kafka} but {path} is missing: write its "
                "administrator's name and password there, one a line"
            )
        user, password = path.read_text().split()
        return Administrator(
            self.given_kafka, password, folder, self.partitions, user, self.security
        )

    def admin_dsn(self) -> str:
        """The way into Postgres for setting up."""
        return self.given_postgres or self.database.admin_dsn

    def provision(self, services: Sequence[str]) -> None:
        """Give every service its credentials, and both stores the users and rights for them.

        The first time also a fresh key-encryption key, unless another provider holds one.
        """
        if self.key_provider == "file":
            found_keys(self.home.keys / "kek")
        roles = {service: self.database_password(service) for service in services}
        auditor = self.password_in(AUDITED, AUDITORS_DSN) if AUDITED in roles else ""
        postgres.provision(self.admin_dsn(), roles, auditor)
        target = urlsplit(self.admin_dsn())
        host, port = target.hostname or "127.0.0.1", target.port or 5432
        users: dict[str, str] = {}
        for service in services:
            folder = self.home.credentials / service
            self.authority.renew_if_due(folder, "service", service)
            users[service] = kafka_password(folder / "kafka.user")
            write_secret(folder / "kafka.user", f"{service}\n{users[service]}\n")
            text = postgres.dsn(postgres.role(service), roles[service], host, port)
            write_secret(folder / "postgres.dsn", text + "\n")
        if auditor:
            text = postgres.dsn(postgres.AUDITOR, auditor, host, port)
            write_secret(self.home.credentials / AUDITED / AUDITORS_DSN, text + "\n")
        asyncio.run(self.provision_kafka(users))
        self.feeds = Feeds(self.home, self.authority, tuple(users))

    async def provision_kafka(self, users: Mapping[str, str]) -> None:
        """Make users, rules and topics; patient with a broker that just started."""
        wanted = feeds_wanted(self.home)
        bus = self.administrator()
        deadline = asyncio.get_running_loop().time() + ACCESS_SECONDS
        while True:
            try:
                passwords = {} if bus.kafka_security == "SSL" else users
                await access.apply(bus, passwords, users, wanted)
                await topics.ensure(bus, wanted)
            except (access.AccessFailed, topics.MisconfiguredTopic) as error:
                raise Unusable(str(error)) from error
            except Exception as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise Unusable(f"Kafka at {bus.kafka} cannot be set up: {error}") from error
                await asyncio.sleep(0.2)
            else:
                return

    def database_password(self, service: str) -> str:
        """The password of the service's role: the one it has, else a new one."""
        return self.password_in(service, "postgres.dsn")

    def password_in(self, service: str, name: str) -> str:
        """The password in one of a service's files, else a new one."""
        path = self.home.credentials / service / name
        if path.exists():
            return urlsplit(path.read_text().strip()).password or secrets.token_urlsafe(32)
        return secrets.token_urlsafe(32)


def stop_left(home: Home, say: Callable[[str], None]) -> None:
    """Stop what an earlier supervisor left behind."""
    for name, gently in (("kafka", signal.SIGTERM), ("postgres", signal.SIGINT)):
        path = home.path / f"{name}.pid"
        if path.exists():
            if stop_marked(path.read_text(), gently, LEFT_SECONDS):
                say(f"stopped the {name} that an earlier run left")
            path.unlink()


def kafka_password(path: Path) -> str:
    """The password in a `kafka.user` file, else a new one."""
    return path.read_text().splitlines()[1] if path.exists() else secrets.token_urlsafe(32)
