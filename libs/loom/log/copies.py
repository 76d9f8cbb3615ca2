"""How many brokers hold a partition, and how many of them an acknowledgement waits for.

Told by the cluster itself; remembered for a second, for replicas come and go.
"""

import asyncio
import time
from typing import Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from .topics import Bus, KafkaError, connection

__all__ = ["Copies", "CopiesOf", "CopiesUnknown"]

FRESH_SECONDS = 1.0
MIN_INSYNC = "min.insync.replicas"


class CopiesUnknown(Exception):
    """The cluster does not say now."""


class Copies(NamedTuple):
    """What stands behind an acknowledged append."""

    replicas: int
    in_sync: int
    """Of these, those that have everything now."""
    min_insync: int
    """An append that fewer can take is not acknowledged."""


class CopiesOf:
    """Asks about one partition."""

    def __init__(self, bus: Bus, topic: str, partition: int) -> None:
        self.bus = bus
        self.topic = topic
        self.partition = partition
        self._known: tuple[float, Copies] | None = None
        """When it was asked, and what was told."""
        self._asking = asyncio.Lock()

    async def now(self) -> Copies:
        """The partition's copies; raises CopiesUnknown while no broker answers."""
        # Many ask at once: one question answers them all.
        async with self._asking:
            if self._known is None or time.monotonic() - self._known[0] >= FRESH_SECONDS:
                self._known = (time.monotonic(), await self._ask())
            return self._known[1]

    async def _ask(self) -> Copies:
        admin = AIOKafkaAdminClient(**connection(self.bus), client_id="loomos-copies")
        try:
            await admin.start()
            (told,) = await admin.describe_topics([self.topic])
            found = next(one for one in told["partitions"] if one["partition"] == self.partition)
            resource = ConfigResource(ConfigResourceType.TOPIC, self.topic)
            responses: list[Any] = await admin.describe_configs([resource])
            settings = {
                entry[0]: entry[1]
                for response in responses
                for *_, entries in response.resources
                for entry in entries
            }
            return Copies(len(found["replicas"]), len(found["isr"]), int(settings[MIN_INSYNC]))
        except (KafkaError, OSError, KeyError, StopIteration, TimeoutError) as error:
            raise CopiesUnknown(f"{self.topic}/{self.partition}: {error!r}") from error
        finally:
            await admin.close()
