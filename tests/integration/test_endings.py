"""Kafka's clients end while brokers are away, and leave nothing behind."""

import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError

from loom.log.judge import START
from loom.log.publisher import Publisher
from loom.log.reader import Reader
from loom.log.seals import Seals
from loom.log.writer import Writer

LONG_SECONDS = 600.0


class Away:
    """Stands where a client sends; every request finds no broker."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def send(self, *_: object, **__: object) -> None:
        self.asked.set()
        raise KafkaConnectionError("no broker")


def connected(client) -> bool:
    return any(one.connected() for one in client._conns.values())


async def ended(work) -> asyncio.Task:
    """How it ended; a cancellation that nobody asked for does not reach the test."""
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait([task], timeout=30)
    assert done, "it never ended"
    return task


async def test_who_stops_a_reader_between_two_fetches_is_not_cancelled(bus, topic):
    reader = Reader(bus, topic, 0, fetch_wait_ms=50)
    await reader.start()
    fetcher, client = reader._consumer._fetcher, reader._consumer._client
    assert fetcher is not None
    fetcher._retry_backoff = LONG_SECONDS
    away = Away()
    client.send = away.send
    await away.asked.wait()
    stopped = await ended(reader.stop())
    assert not stopped.cancelled()
    assert stopped.exception() is None
    assert not connected(client)


async def begun(bus, topic):
    """A writer's producer."""
    writer = Writer(bus, topic, 0, "test", START)

    async def ignore(_: list) -> None:
        return None

    await writer.begin(ignore)
    return writer._producer, writer.close


async def sealing(bus, topic):
    """A notary's producer."""
    seals = Seals(bus)
    await seals.start()
    return seals._producer, seals.stop


@pytest.mark.parametrize("made", [begun, sealing])
async def test_a_producer_with_something_to_send_ends_and_lets_go(bus, topic, made):
    producer, end = await made(bus, topic)
    sender = producer._sender.sender_task
    away = Away()
    producer.client.send = away.send
    await producer.send(topic, b"never sent", partition=0)
    await away.asked.wait()
    stopped = await ended(end())
    assert stopped.exception() is None
    assert sender.done()
    assert not connected(producer.client)


async def test_a_publisher_of_telemetry_lets_go_too(bus, topic, monkeypatch):
    monkeypatch.setattr("loom.log.publisher.TELEMETRY_TOPIC", topic)
    made = []
    monkeypatch.setattr(
        Publisher, "_send_all", lambda self, producer: unsent(made, producer, topic)
    )
    publisher = Publisher(bus, "test")
    await publisher.start()
    while not made:
        await asyncio.sleep(0.02)
    sender = made[0]._sender.sender_task
    stopped = await ended(publisher.stop())
    assert stopped.exception() is None
    assert sender.done()
    assert not connected(made[0].client)


async def unsent(made, producer, topic) -> None:
    """Brokers go away with a record on its way."""
    away = Away()
    producer.client.send = away.send
    await producer.send(topic, b"never sent", partition=0)
    await away.asked.wait()
    made.append(producer)
    await asyncio.Event().wait()
