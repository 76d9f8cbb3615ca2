"""The table of topics, and how a process reaches Kafka.

1. Settings of a topic are made once and checked at every start; a difference is an error that names
   topic, setting, value found and value wanted. The partition count never changes.
2. Deciding topics are never compacted and never expire; one broker alone flushes every append.
"""

import contextlib
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from aiokafka.partitioner import murmur2

__all__ = [
    "DECIDING",
    "FEED_PREFIX",
    "MESSAGE_BYTES_MAX",
    "TOPICS",
    "BrokersMissing",
    "Bus",
    "KafkaError",
    "MisconfiguredTopic",
    "Topic",
    "connection",
    "ensure",
    "feed_topic",
    "make",
    "partition_of",
]


class Bus(Protocol):
    """What of a process's settings concerns Kafka."""

    @property
    def kafka(self) -> str:
        """Bootstrap servers, `host:port`, comma-separated."""
        ...

    @property
    def kafka_security(self) -> str:
        """`SASL_PLAINTEXT`, `SASL_SSL` or `SSL`."""
        ...

    @property
    def kafka_user(self) -> str:
        """SCRAM user."""
        ...

    @property
    def kafka_password(self) -> str:
        """SCRAM password."""
        ...

    @property
    def tls_certificate(self) -> Path:
        """Leaf certificate, PEM."""
        ...

    @property
    def tls_key(self) -> Path:
        """The leaf's key, PEM."""
        ...

    @property
    def ca_certificate(self) -> Path:
        """Authority, PEM."""
        ...

    @property
    def partitions(self) -> int:
        """Partitions of each deciding topic."""
        ...


class MisconfiguredTopic(Exception):
    """A topic stands with other settings than the log needs."""


class BrokersMissing(Exception):
    """Fewer brokers answer than the address names: how safe a topic is depends on their number."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic: its only writers, and how long it keeps what they write."""

    name: str
    writers: tuple[str, ...]
    retention_ms: int = -1
    judged: bool = True
    """True where records carry the judge's stamp and belong to one claim at a time."""
    partitioned: bool = True
    """False where one partition is enough whatever the fleet's size."""


DECIDING = (
    "security",
    "scheduler",
    "resource-manager",
    "marketplace",
    "checkpoint",
    "deployment",
    "data",
    "loomdb",
)
_HOUR_MS = 3_600_000
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Of one record batch, so of one command: a thousand events of three kilobytes."""

TOPICS = (
    *(Topic(f"loomos.{name}", (name,)) for name in DECIDING),
    Topic("loomos.seals", ("loomdb",), judged=False, partitioned=False),
    Topic("loomos.alerts", ("telemetry", "loomdb"), 30 * 24 * _HOUR_MS, False, False),
    Topic("loomos.dead-letters", DECIDING, 30 * 24 * _HOUR_MS, False, False),
    Topic("loomos.telemetry", ("node-agent", "telemetry"), 6 * _HOUR_MS, False),
)

FEED_PREFIX = "loomos.feed."
FEED_RETENTION_DAYS = 7


def feed_topic(organisation: str) -> Topic:
    """The topic that an organisation's own clients read; the log itself stays closed to them."""
    retention_ms = FEED_RETENTION_DAYS * 24 * _HOUR_MS
    return Topic(f"{FEED_PREFIX}{organisation}", ("loomdb",), retention_ms, False, False)


def connection(bus: Bus) -> dict[str, Any]:
    """The arguments by which every aiokafka client of this process connects."""
    arguments: dict[str, Any] = {
        "bootstrap_servers": bus.kafka,
        "security_protocol": bus.kafka_security,
    }
    if bus.kafka_security.startswith("SASL"):
        arguments |= {
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": bus.kafka_user,
            "sasl_plain_password": bus.kafka_password,
        }
    if bus.kafka_security.endswith("SSL"):
        context = ssl.create_default_context(cafile=str(bus.ca_certificate))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if bus.kafka_security == "SSL":
            context.load_cert_chain(str(bus.tls_certificate), str(bus.tls_key))
        arguments["ssl_context"] = context
    return arguments


def partition_of(shard: str, partitions: int) -> int:
    """The partition that holds a shard, as every Kafka client computes it."""
    return (murmur2(shard.encode()) & 0x7FFFFFFF) % partitions


def wanted(topic: Topic, brokers: int) -> dict[str, str]:
    """The settings a topic must have on a cluster of this many brokers."""
    settings = {
        "cleanup.policy": "delete",
        "retention.ms": str(topic.retention_ms),
        "retention.bytes": "-1",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MESSAGE_BYTES_MAX),
        "compression.type": "producer",
        "unclean.leader.election.enable": "false",
        "min.insync.replicas": "2" if brokers >= 3 else "1",
    }
    if topic.judged and brokers < 3:
        settings["flush.messages"] = "1"
    return settings


async def ensure(bus: Bus, feeds: Iterable[str] = ()) -> None:
    """Make the topics that are missing, feeds of these organisations too, and check the others.

    Raises MisconfiguredTopic or BrokersMissing.
    """
    admin = AIOKafkaAdminClient(**connection(bus), client_id="loomos-topics")
    await admin.start()
    try:
        brokers = len((await admin.describe_cluster())["brokers"])
        if brokers < (named := len(bus.kafka.split(","))):
            raise BrokersMissing(f"{brokers} of {named} brokers answer")
        standing = set(await admin.list_topics())
        missing = [
            NewTopic(
                topic.name,
                bus.partitions if topic.partitioned else 1,
                3 if brokers >= 3 else 1,
                topic_configs=wanted(topic, brokers),
            )
            for topic in (*TOPICS, *map(feed_topic, feeds))
            if topic.name not in standing
        ]
        if missing:
            with contextlib.suppress(TopicAlreadyExistsError):
                await admin.create_topics(missing)
        await check(admin, [topic for topic in TOPICS if topic.name in standing], bus, brokers)
    finally:
        await admin.close()


async def make(bus: Bus, topic: Topic) -> None:
    """Make one topic of one partition on a single broker, set as the platform's own are."""
    admin = AIOKafkaAdminClient(**connection(bus), client_id="loomos-topics")
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic.name, 1, 1, topic_configs=wanted(topic, 1))])
    finally:
        await admin.close()


async def check(admin: AIOKafkaAdminClient, standing: list[Topic], bus: Bus, brokers: int) -> None:
    """Compare what stands with what is wanted."""
    if not standing:
        return
    names = [topic.name for topic in standing]
    counts = {
        found["topic"]: len(found["partitions"]) for found in await admin.describe_topics(names)
    }
    for topic in standing:
        expected = bus.partitions if topic.partitioned else 1
        if counts[topic.name] != expected:
            raise MisconfiguredTopic(
                f"topic {topic.name} has {counts[topic.name]} partitions, LOOMOS_PARTITIONS says "
                f"{expected}: the count is fixed when a topic is made"
            )
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    responses: list[Any] = await admin.describe_configs(resources)
    for response in responses:
        for _, _, _, name, entries in response.resources:
            found = {entry[0]: entry[1] for entry in entries}
            topic = next(topic for topic in standing if topic.name == name)
            for setting, value in wanted(topic, brokers).items():
                if found.get(setting) != value:
                    raise MisconfiguredTopic(
                        f"topic {name}: {setting} is {found.get(setting)}, must be {value}"
                    )
