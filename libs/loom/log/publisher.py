"""Publishes telemetry to Kafka: quick, and lossy by intent.

1. Telemetry only: a record here has no claim, no number and no answer, so nothing may depend on it.
2. `publish` never waits. What does not fit the queue is dropped and counted, the oldest first.
3. A broker that is away costs samples, never memory and never the publisher.
"""

import asyncio
from collections import deque

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from loom.log.endings import end_producer
from loom.log.topics import Bus, connection

__all__ = ["TELEMETRY_TOPIC", "Publisher"]

TELEMETRY_TOPIC = "loomos.telemetry"
QUEUED_MAX = 1000
SEND_TIMEOUT_MS = 10_000
PAUSE_SECONDS = 2.0


class Publisher:
    """Sends telemetry records in the background."""

    def __init__(self, bus: Bus, client_id: str) -> None:
        self.bus, self.client_id = bus, client_id
        self.dropped = 0
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to send; a broker that is away is waited for in the background."""
        self._task = asyncio.create_task(self._run())

    def publish(self, key: str, value: bytes) -> None:
        """Queues one record; the oldest one goes when there is no room."""
        if len(self._queue) == QUEUED_MAX:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append((key.encode(), value))
        self._filled.set()

    async def stop(self) -> None:
        """Stops sending; what is still queued is lost."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            producer = AIOKafkaProducer(
                **connection(self.bus),
                client_id=self.client_id,
                acks=1,
                linger_ms=100,
                compression_type="lz4",
                request_timeout_ms=SEND_TIMEOUT_MS,
            )
            try:
                await producer.start()
                await self._send_all(producer)
            except (KafkaError, OSError):
                self.dropped += 1
            finally:
                await end_producer(producer)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _send_all(self, producer: AIOKafkaProducer) -> None:
        while True:
            while self._queue:
                key, value = self._queue.popleft()
                await producer.send(TELEMETRY_TOPIC, value, key=key)
            self._filled.clear()
            await self._filled.wait()
