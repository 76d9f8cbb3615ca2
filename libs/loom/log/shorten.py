"""Where a partition begins in Kafka, and making it begin later.

1. Kafka forgets records for good: `shorten` is called only after a `log.shortened` event, and never
   above the base that the event names.
"""

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import KafkaError

from .reader import LogAway
from .topics import Bus, connection

__all__ = ["shorten"]

TIMEOUT_MS = 30_000


async def shorten(bus: Bus, topic: str, partition: int, offset: int) -> int:
    """Have Kafka forget everything below an offset; gives where the partition begins now."""
    admin = AIOKafkaAdminClient(**connection(bus), client_id="loomos-archiver")
    place = TopicPartition(topic, partition)
    try:
        await admin.start()
        begins = await admin.delete_records({place: RecordsToDelete(offset)}, TIMEOUT_MS)
    except KafkaError as error:
        raise LogAway(f"{topic}/{partition}: {error!r}") from error
    finally:
        await admin.close()
    return begins[place]
