"""Ends Kafka's clients, whatever state the brokers are in.

1. A consumer awaits the fetches that it cancels. While brokers are away these end as cancelled, and
   who stopped the consumer would take that for his own cancellation: his loop would end, unasked.
2. A producer flushes for as long as brokers are away. Left so it would keep its connections, and
   send what is in doubt once they are back.
"""

import asyncio
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

__all__ = ["end_consumer", "end_producer"]

PATIENCE_SECONDS = 1.0


async def end_consumer(consumer: AIOKafkaConsumer) -> None:
    """Disconnect a consumer, also one that never started."""
    fetcher = consumer._fetcher
    try:
        if fetcher is not None:
            await cancelled(fetcher._fetch_task)
            await cancelled(*fetcher._pending_tasks)
            fetcher._pending_tasks.clear()
    finally:
        # Also where whoever stops it is cancelled meanwhile: a process that ends says why, last.
        await consumer.stop()


async def end_producer(producer: AIOKafkaProducer) -> None:
    """Disconnect a producer; what it has not sent after a second it sends no more."""
    stopping = asyncio.create_task(producer.stop())
    await asyncio.wait([stopping], timeout=PATIENCE_SECONDS)
    if stopping.done() and not stopping.cancelled() and stopping.exception() is None:
        return
    await cancelled(stopping)
    sender = producer._sender.sender_task if producer._sender is not None else None
    if sender is not None:
        # It waits for what is in flight, which ends with the connections.
        sender.cancel()
    await asyncio.wait([asyncio.create_task(producer.client.close())], timeout=PATIENCE_SECONDS)
    if sender is not None:
        await asyncio.wait([sender], timeout=PATIENCE_SECONDS)
        await cancelled(sender)


async def cancelled(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=PATIENCE_SECONDS)
