"""Follows one partition for its notary and publishes what the notary signs to `loomos.seals`.

1. A checkpoint is published only after it is durable, and again after a restart: a reader may see
   one twice, never two that contradict.
2. A checkpoint that cannot be published delays nothing: the next one contains it.
"""

import asyncio
import hashlib
import time

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from loom.log import envelope
from loom.log.clock import now_us
from loom.log.endings import end_producer
from loom.log.envelope import Origin
from loom.log.notary import Notary
from loom.log.note import parse_checkpoint, split
from loom.log.reader import IDLE_MS, LogAway, Reader
from loom.log.topics import Bus, connection
from loom.log.witnesses import Witnesses
from loom.v1 import loomdb_pb2

__all__ = ["TOPIC", "Seals", "follow"]

TOPIC = "loomos.seals"
PUBLISH_S = 10.0
ACTOR = "service:loomdb"


class Seals:
    """The way to `loomos.seals`."""

    def __init__(self, bus: Bus) -> None:
        self._producer = AIOKafkaProducer(
            **connection(bus),
            client_id="loomos-notary",
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            request_timeout_ms=int(PUBLISH_S * 1000),
        )

    async def start(self) -> None:
        """Connect; raises LogAway while no broker answers."""
        try:
            await self._producer.start()
        except KafkaError as error:
            raise LogAway(f"{TOPIC}: {error!r}") from error

    async def stop(self) -> None:
        """Disconnect."""
        await end_producer(self._producer)

    async def publish(self, tree_id: str, note: str) -> bool:
        """Append a signed note; False when the broker did not take it in time."""
        record = record_of(tree_id, note)
        try:
            async with asyncio.timeout(PUBLISH_S):
                await self._producer.send_and_wait(
                    TOPIC, key=record.key, value=record.value, headers=list(record.headers)
                )
        except (KafkaError, TimeoutError):
            return False
        return True


def record_of(tree_id: str, note: str) -> envelope.Draft:
    """The record of a signed checkpoint; its id derives from the note, so a repetition shows."""
    checkpoint = parse_checkpoint(split(note)[0])
    event = loomdb_pb2.CheckpointSigned(
        tree_id=tree_id, size=checkpoint.size, root=checkpoint.root, checkpoint=note
    )
    digest = hashlib.sha256(note.encode()).digest()
    origin = Origin(
        source="/loomos/loomdb",
        shard=tree_id,
        actor=ACTOR,
        command_id=digest.hex()[:32],
        command_digest=digest,
        issued_at_us=now_us(),
        at_us=now_us(),
        correlation_id=digest.hex()[:32],
        causation_id="",
    )
    return envelope.draft([event], [checkpoint.size], origin)[0]


async def follow(
    bus: Bus, notary: Notary, seals: Seals, every_s: float, witnesses: Witnesses | None = None
) -> None:
    """Follow a partition for ever; ends only by LogAway, LogDiverged or Contradiction.

    Something new is signed at most once in `every_s` seconds.
    """
    log = structlog.get_logger().bind(tree=notary.name)
    reader = Reader(bus, notary.topic, notary.partition, notary.resume)
    try:
        notary.check_end(await reader.start())
        published = not notary.signed.size
        sealed_at = 0.0
        while True:
            pause_ms = int(every_s * 1000) if notary.grown or not published else IDLE_MS
            for record in await reader.batch(pause_ms):
                notary.append(record.offset, record.timestamp_ms, record.verdict)
            if published and not notary.grown:
                continue
            if time.monotonic() - sealed_at < every_s:
                continue
            # Flushing waits for the disk; queries of this process must not.
            note = await asyncio.to_thread(notary.seal)
            sealed_at = time.monotonic()
            if witnesses is not None:
                witnesses.show(notary.folder, note)
            published = await seals.publish(notary.name, note)
            if not published:
                log.warning("checkpoint not published", size=notary.signed.size)
    except KafkaError as error:
        raise LogAway(f"{notary.name}: {error!r}") from error
    finally:
        await reader.stop()
