"""The stores of `loomos up`: who may enter them, and that they are back after kill -9."""

import asyncio
import contextlib
from urllib.parse import urlsplit

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from loom.kit.config import Settings
from loom.log import access, topics
from loomos.embedded import jars
from loomos.embedded.kafka import Broker
from loomos.embedded.process import Unusable


def own_broker(platform) -> Broker:
    """The broker that this session started."""
    if platform.stores.broker.process is None:
        pytest.skip("LOOMOS_TEST_KAFKA names a broker that is not ours to kill or to reach by TLS")
    return platform.stores.broker


def agent_settings(platform) -> Settings:
    """What a node agent's process would read: a certificate and the listener for agents."""
    folder = platform.home.credentials / "agent-of-test"
    platform.authority.issue(folder, "node", "node-local-aaaaaaaaaaaaaaaaaaaa")
    return Settings.load(
        "node-agent",
        {
            "LOOMOS_HOME": str(platform.home.path),
            "LOOMOS_CREDENTIALS": str(folder),
            "LOOMOS_KAFKA": own_broker(platform).ssl_bootstrap,
            "LOOMOS_KAFKA_SECURITY": "SSL",
        },
    )


async def write(bus: topics.Bus, topic: str, value: bytes = b"x") -> int:
    """Append one record as this user; its offset."""
    producer = AIOKafkaProducer(**topics.connection(bus), acks="all", enable_idempotence=True)
    await producer.start()
    try:
        return (await producer.send_and_wait(topic, value, partition=0)).offset
    finally:
        with contextlib.suppress(KafkaError):
            await asyncio.wait_for(producer.stop(), 5)


async def read(bus: topics.Bus, topic: str, offset: int) -> bytes | None:
    """Read one record as this user."""
    consumer = AIOKafkaConsumer(**topics.connection(bus), enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek(TopicPartition(topic, 0), offset)
        return (await asyncio.wait_for(consumer.getone(), 10)).value
    finally:
        await consumer.stop()


async def test_only_the_owner_writes_its_topic_and_every_service_reads_it(kafka):
    scheduler, security = kafka.settings("scheduler"), kafka.settings("security")
    offset = await write(scheduler, "loomos.scheduler", b"mine")
    assert await read(security, "loomos.scheduler", offset) == b"mine"
    with pytest.raises(KafkaError, match=r"(?i)authorization"):
        await write(security, "loomos.scheduler")


async def test_node_agents_write_telemetry_alone(kafka):
    agent = agent_settings(kafka)
    assert await write(agent, "loomos.telemetry") >= 0
    with pytest.raises(KafkaError, match=r"(?i)authorization"):
        await write(agent, "loomos.resource-manager")


async def test_a_service_certificate_maps_to_the_service(kafka):
    bus = kafka.settings(
        "scheduler",
        LOOMOS_KAFKA=own_broker(kafka).ssl_bootstrap,
        LOOMOS_KAFKA_SECURITY="SSL",
    )
    assert await write(bus, "loomos.scheduler") >= 0
    with pytest.raises(KafkaError, match=r"(?i)authorization"):
        await write(bus, "loomos.security")


async def test_a_rule_that_the_table_does_not_ask_for_is_removed(kafka):
    bus = kafka.administrator
    everyone = access.Rule(access.TOPIC, "loomos.security", access.LITERAL, "User:*", "*", 2, 3)
    admin = access.AIOKafkaAdminClient(**topics.connection(bus))
    await admin.start()
    try:
        await access.send(admin, access.Create([everyone]))
        assert everyone in await access.described(admin)
        await kafka.stores.provision_kafka(passwords(kafka))
        assert await access.described(admin) == access.rules(passwords(kafka))
    finally:
        await admin.close()


def passwords(platform) -> dict[str, str]:
    """Every service's Kafka password, as its own folder has it."""
    return {
        folder.name: (folder / "kafka.user").read_text().splitlines()[1]
        for folder in platform.home.credentials.iterdir()
        if (folder / "kafka.user").exists() and folder.name != "admin"
    }


async def test_a_role_reads_its_own_schema_and_no_other(postgres):
    own = postgres.settings("scheduler").postgres
    other = postgres.settings("security").postgres
    async with await psycopg.AsyncConnection.connect(own) as db:
        await db.execute("CREATE TABLE scheduler.secret_of_test (x int)")
    try:
        async with await psycopg.AsyncConnection.connect(other) as db:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await db.execute("SELECT * FROM scheduler.secret_of_test")
    finally:
        async with await psycopg.AsyncConnection.connect(own) as db:
            await db.execute("DROP TABLE scheduler.secret_of_test")


async def test_postgres_lets_nobody_in_without_a_password(postgres):
    right = postgres.settings("scheduler").postgres
    dsn = right.replace(str(urlsplit(right).password), "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await psycopg.AsyncConnection.connect(dsn)


async def test_both_stores_are_back_with_their_data_after_kill_9(platform):
    own_broker(platform)
    scheduler = platform.settings("scheduler")
    offset = await write(scheduler, "loomos.scheduler", b"before the kill")
    stores = platform.stores
    for process in (stores.broker.process, stores.database.process):
        process.kill()
        process.wait()
    stores.launch(print)
    stores.wait()
    assert await read(scheduler, "loomos.scheduler", offset) == b"before the kill"
    async with await psycopg.AsyncConnection.connect(scheduler.postgres) as db:
        assert await (await db.execute("SELECT 1")).fetchone() == (1,)


def test_a_jar_that_differs_from_the_lock_is_named(tmp_path, monkeypatch):
    jar = jars.Jar("org.example:thing:1", "0" * 64, 3)
    monkeypatch.setattr(jars, "locked", lambda name: (jar,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "loomos" / "kafka").mkdir(parents=True)
    (tmp_path / "loomos" / "kafka" / "thing-1.jar").write_bytes(b"bad")
    with pytest.raises(Unusable, match=r"checksum of .*thing-1\.jar"):
        jars.classpath(print)


async def test_a_fresh_log_is_empty_and_writable(fresh_log):
    assert await write(fresh_log.settings("scheduler"), "loomos.scheduler") == 0


async def test_a_fresh_database_has_empty_schemas(fresh_database):
    async with await psycopg.AsyncConnection.connect(
        fresh_database.settings("scheduler").postgres
    ) as db:
        await db.execute("CREATE TABLE scheduler.jobs (x int)")
        await db.execute("CREATE TABLE loom.leases_of_test (x int)")
        await db.execute("DROP TABLE scheduler.jobs, loom.leases_of_test")
