"""A partition of its own for a test, and a writer that has claimed it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tests.appending import origin, writing

from loom.log import envelope
from loom.log.envelope import Draft
from loom.log.topics import connection
from loom.log.writer import Writer
from loom.store import Store
from loom.v1 import common_pb2

ROLE = "checkpoint"
"""A service that nothing runs for yet lends the tests of the kit its schema."""


@pytest.fixture
def bus(platform):
    return platform.administrator


@pytest.fixture
async def topic(bus) -> AsyncIterator[str]:
    name = f"test.{uuid.uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(**connection(bus))
    await admin.start()
    settings = {"message.timestamp.type": "LogAppendTime"}
    await admin.create_topics([NewTopic(name, 1, 1, topic_configs=settings)])
    while name not in await admin.list_topics():
        await asyncio.sleep(0.02)
    yield name
    await admin.delete_topics([name])
    await admin.close()


@pytest.fixture
async def writer(bus, topic) -> AsyncIterator[Writer]:
    async with writing(bus, topic) as found:
        yield found


@pytest.fixture
def note() -> Callable[..., list[Draft]]:
    """`note("a", 1, "one")`: one command with one event, the first of stream a, that says "one"."""

    def drafts(stream: str, version: int, *texts: str) -> list[Draft]:
        events = [
            common_pb2.CommandAcknowledged(shard_id=stream, command_type=text) for text in texts
        ]
        return envelope.draft(events, range(version, version + len(texts)), origin())

    return drafts


@pytest.fixture
async def store(fresh_database, settings) -> AsyncIterator[Store]:
    """The schema of a service, with a table of notes."""
    found = Store(settings(ROLE).postgres, ROLE)
    await found.open()
    await found.prepare(
        "CREATE TABLE notes (stream text NOT NULL, number bigint NOT NULL, said text NOT NULL,"
        " PRIMARY KEY (stream, number));"
    )
    yield found
    await found.close()
