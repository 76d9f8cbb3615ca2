"""Notices of dead letters on `loomos.dead-letters`, for those who watch rather than mend.

The row in the projecting service's schema is the truth of what waits. A notice says where the
record stands, never what it holds; it may come twice.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer

from loom.log.endings import end_producer
from loom.log.topics import Bus, connection

__all__ = ["TOPIC", "send_notices"]

TOPIC = "loomos.dead-letters"


async def send_notices(bus: Bus, rows: Sequence[Mapping[str, Any]]) -> None:
    """Send one JSON object a row, keyed by its stream; raises KafkaError when Kafka is away."""
    producer = AIOKafkaProducer(
        **connection(bus), client_id="loomos-dead-letters", acks="all", request_timeout_ms=5000
    )
    await producer.start()
    try:
        for row in rows:
            value = json.dumps(dict(row), sort_keys=True).encode()
            await producer.send_and_wait(TOPIC, key=row["stream"].encode(), value=value)
    finally:
        await end_producer(producer)
