"""The operator's way on after a loss: a log that lost signed records begins another incarnation.

1. What the log still holds is compared with what was signed, record by record: the shared beginning
   is a fact, not a claim. Where nothing signed is missing nothing is restored.
2. The next incarnation's tree begins with the shared leaves as they were, so that a consistency
   proof leads from the shared size to every later checkpoint; the old tree stays as it is.
3. A marker begins the incarnation in the log, and one `log.restored` event behind it says what was
   lost; both are read back before anything relies on them.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from loom.decider import partition_shard
from loom.log import envelope
from loom.log.clock import now_us
from loom.log.envelope import Origin
from loom.log.writer import Doubt, Writer
from loom.v1 import common_pb2

from .judge import START, Base
from .leaf import leaf_of, topic_digest, unpack
from .merkle import consistency_proof, verify_consistency
from .notary import Notary, Signed, store_signed, tree_folder
from .note import Signer
from .parquet import Archived
from .reader import Judged, LogAway, Reader
from .tiles import DamagedTree, GrowingTiles, Tiles
from .topics import Bus, Topic, connection, wanted
from .verify import Sealed

__all__ = ["Loss", "NothingLost", "begin", "begun", "fork", "measure", "refill"]

CONFIRM_S = 15.0


class NothingLost(Exception):
    """The log holds everything that was signed."""


class Loss(NamedTuple):
    """What a log still shares with what was signed of it."""

    shared: Base
    """Behind the last command that both have."""
    shared_size: int
    """Leaves before it."""
    signed_size: int
    lost_from: int
    """The first offset that was signed and is not there as it was."""
    lost_through: int
    """The last offset that was signed."""
    end: int
    """Where the log ends now."""


async def measure(bus: Bus, sealed: Sealed) -> Loss:
    """Compare a log with its tree up to the first difference; raises NothingLost."""
    tree, name = sealed.tree, topic_digest(sealed.topic)
    reader = Reader(bus, sealed.topic, sealed.partition)
    end = await reader.start()
    shared, shared_size, size, differs = START, 0, 0, False
    try:
        while reader.next_offset < end and size < tree.size and not differs:
            for record in await reader.batch():
                if size == tree.size:
                    break
                leaf = leaf_of(
                    name,
                    sealed.partition,
                    incarnation_at(shared, record),
                    record.offset,
                    record.timestamp_ms,
                    record.verdict,
                )
                if leaf.pack() != tree.entry(size):
                    differs = True
                    break
                size += 1
                if record.verdict.closes:
                    shared, shared_size = record.base, size
    finally:
        await reader.stop()
    if size == tree.size:
        raise NothingLost(
            f"{sealed.topic}/{sealed.partition} holds all {tree.size} records that were signed"
        )
    last = unpack(tree.entry(tree.size - 1)).offset
    lost_from = unpack(tree.entry(shared_size)).offset
    return Loss(shared, shared_size, tree.size, lost_from, last, end)


def incarnation_at(before: Base, record: Judged) -> int:
    """The incarnation in force at a record: its own where it counts, else that before it."""
    stamp = record.verdict.stamp if record.verdict.valid else None
    return before.incarnation if stamp is None else stamp.incarnation


def fork(trees: Path, sealed: Sealed, loss: Loss, signer: Signer) -> Path:
    """Make the next incarnation's tree out of the shared leaves, signed; its folder.

    Raises DamagedTree.
    """
    incarnation = sealed.incarnation + 1
    folder = tree_folder(trees, sealed.topic, sealed.partition, incarnation)
    folder.mkdir(parents=True, exist_ok=True)
    tree = GrowingTiles(folder, 0)
    for index in range(loss.shared_size):
        tree.append(sealed.tree.entry(index))
    tree.flush()
    root = tree.current_root()
    # An old verifier's checkpoint of any size up to the shared one leads here.
    old = sealed.tree
    path = consistency_proof(loss.shared_size, old.size, old.node)
    if not verify_consistency(loss.shared_size, old.size, path, root, sealed.checkpoint.root):
        raise DamagedTree(f"{old.folder}: the shared leaves are no prefix of the signed tree")
    last = unpack(old.entry(loss.shared_size - 1)).offset if loss.shared_size else -1
    store_signed(
        folder,
        Signed(loss.shared_size, root.hex(), last, loss.shared, loss.shared_size),
    )
    Notary(trees, sealed.topic, sealed.partition, signer, incarnation).seal()
    return folder


async def begun(bus: Bus, sealed: Sealed) -> bool:
    """Whether the log is in a later incarnation than its tree already: a restore was cut short."""
    reader = Reader(bus, sealed.topic, sealed.partition)
    end = await reader.start()
    try:
        while reader.next_offset < end:
            await reader.batch()
    finally:
        await reader.stop()
    return reader.judge.incarnation > sealed.incarnation


async def refill(bus: Bus, topic: Topic, partition: int, records: Iterable[Archived]) -> int:
    """Write archived records into an empty partition, with the offsets and times that they had.

    Raises LogAway, or ValueError where a record cannot stand where it stood.
    """
    admin = AIOKafkaAdminClient(**connection(bus), client_id="loomos-restore")
    producer = AIOKafkaProducer(**connection(bus), client_id="loomos-restore", acks="all")
    await admin.start()
    try:
        settings = wanted(topic, len((await admin.describe_cluster())["brokers"]))
        # A record's time is in its leaf: for this once the broker takes the one that it is given.
        await configure(admin, topic.name, settings | {"message.timestamp.type": "CreateTime"})
        await producer.start()
        expected = 0
        for record in records:
            if record.offset != expected or record.deleted:
                raise ValueError(f"offset {expected} cannot be written as it was")
            sent = await producer.send_and_wait(
                topic.name,
                record.value,
                record.key,
                partition,
                record.timestamp_ms,
                list(record.headers),
            )
            if sent.offset != expected:
                raise ValueError(f"{topic.name}/{partition} is not empty: offset {sent.offset}")
            expected += 1
        await configure(admin, topic.name, settings)
        return expected
    except KafkaError as error:
        raise LogAway(f"{topic.name}/{partition}: {error!r}") from error
    finally:
        await producer.stop()
        await admin.close()


async def configure(admin: AIOKafkaAdminClient, topic: str, settings: dict[str, str]) -> None:
    """Give a topic these settings and no others."""
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])


async def begin(
    bus: Bus, sealed: Sealed, loss: Loss, operator: str, reason: str
) -> common_pb2.LogRestored:
    """Append the marker and the event that begin the next incarnation; raises Doubt."""
    topic, partition = sealed.topic, sealed.partition
    writer = Writer(bus, topic, partition, operator, START)
    writer.restores = True

    async def ignore(_: list[Judged]) -> None:
        return None

    try:
        await writer.begin(ignore)
        event = common_pb2.LogRestored(
            log_id=f"{topic}-{partition}",
            incarnation=writer.reader.judge.incarnation,
            shared_size=loss.shared_size,
            shared_root=Tiles(sealed.tree.folder, sealed.tree.size).root(loss.shared_size),
            lost_size=loss.signed_size,
            lost_root=sealed.checkpoint.root,
            lost_from=loss.lost_from,
            lost_through=loss.lost_through,
            reason=reason,
            restored_by=operator,
        )
        confirming = asyncio.create_task(writer.confirm())
        done: asyncio.Future[int | Doubt] = asyncio.get_running_loop().create_future()
        await writer.send(writer.append([(drafts(event, partition), done.set_result)]))
        try:
            outcome = await asyncio.wait_for(done, CONFIRM_S)
        finally:
            confirming.cancel()
            with contextlib.suppress(asyncio.CancelledError, Doubt):
                await confirming
        if isinstance(outcome, Doubt):
            raise outcome
        return event
    finally:
        await writer.close()


def drafts(event: common_pb2.LogRestored, partition: int) -> list[envelope.Draft]:
    """The event's record: it concerns the partition as a whole."""
    content = event.SerializeToString(deterministic=True)
    digest = hashlib.sha256(content).digest()
    at_us = now_us()
    origin = Origin(
        source="/loomos/operator",
        shard=partition_shard(partition),
        actor=event.restored_by,
        command_id=digest.hex()[:32],
        command_digest=digest,
        issued_at_us=at_us,
        at_us=at_us,
        correlation_id=digest.hex()[:32],
        causation_id="",
    )
    return envelope.draft([event], [event.incarnation], origin)
