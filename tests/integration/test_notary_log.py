"""The notary on a real broker, and the broker's own files compared with what it signed."""

import asyncio
import contextlib
import shutil
import struct
import time

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.record.util import calc_crc32c
from tests.appending import append, origin, writing

from loom.log import envelope
from loom.log.notary import Contradiction, Notary
from loom.log.note import load_signer, parse_checkpoint, split
from loom.log.reader import LogDiverged
from loom.log.seals import TOPIC, Seals, follow
from loom.log.topics import connection
from loom.log.verify import Kind, open_tree, verify_folder
from loom.log.verify_live import verify_live
from loom.v1 import common_pb2, loomdb_pb2

pytestmark = [pytest.mark.bus]

COMMANDS = 60


class Told(Seals):
    """Knows the size of the checkpoint that was published last: by then its files stand too."""

    size = 0

    async def publish(self, tree_id, note):
        took = await super().publish(tree_id, note)
        if took:
            self.size = parse_checkpoint(split(note)[0]).size
        return took


@pytest.fixture
async def seals(bus):
    made = Told(bus)
    await made.start()
    yield made
    await made.stop()


async def write(bus, topic, commands):
    async with writing(bus, topic) as writer:
        for number in range(commands):
            told = [f"command {number} {n}" for n in (1, 2, 3)]
            events = [
                common_pb2.CommandAcknowledged(shard_id="local", command_type=one) for one in told
            ]
            await append(writer, [envelope.draft(events, (1, 2, 3), origin())])


async def forge(bus, topic):
    producer = AIOKafkaProducer(**connection(bus))
    await producer.start()
    await producer.send_and_wait(topic, b"forged", headers=[("ce_type", b"job.submitted")])
    await producer.stop()


async def seal_until(bus, notary, seals, size):
    following = asyncio.create_task(follow(bus, notary, seals, 0.1))
    try:
        async with asyncio.timeout(30):
            while seals.size < size and not following.done():
                await asyncio.sleep(0.05)
        if following.done():
            following.result()
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError, Contradiction, LogDiverged):
            await following


def parts(path):
    """The record batches of a segment."""
    data, batches = path.read_bytes(), []
    while data:
        size = 12 + struct.unpack_from(">i", data, 8)[0]
        batches.append(data[:size])
        data = data[size:]
    return batches


def offsets(batch):
    base, last = struct.unpack_from(">q", batch)[0], struct.unpack_from(">i", batch, 23)[0]
    return base, base + last


def found(sealed, copy):
    return [fault[2:5] for fault in verify_folder(sealed, copy).faults]


async def test_a_real_log_is_sealed_and_every_tampering_with_its_files_is_named(
    platform, bus, topic, seals, tmp_path
):
    await write(bus, topic, COMMANDS)
    await forge(bus, topic)
    await write(bus, topic, 2)
    # Two claims, each with a marker; three records a command; one forged record.
    size = 2 + 3 * (COMMANDS + 2) + 1
    signer = load_signer(tmp_path / "credentials", "loomos")
    notary = Notary(tmp_path / "trees", topic, 0, signer)
    await seal_until(bus, notary, seals, size)
    sealed = open_tree(notary.folder, signer.verifier)
    assert sealed.checkpoint.size == size
    assert (await verify_live(bus, sealed)).faults == ()
    assert await published(bus, topic) == signer.sign(sealed.checkpoint)

    copy = tmp_path / "copy"
    folder = copy / f"{topic}-0"
    shutil.copytree(platform.stores.broker.folder / "data" / f"{topic}-0", folder)
    report = verify_folder(sealed, copy)
    assert (report.faults, report.records, report.unsigned) == ((), size, 0)
    (segment,) = folder.glob("*.log")
    honest = parts(segment)
    at = 20
    first, last = offsets(honest[at])

    def write_back(batches):
        segment.write_bytes(b"".join(batches))
        return found(sealed, copy)

    flipped = bytearray(honest[at])
    flipped[-3] ^= 1
    named = write_back([*honest[:at], bytes(flipped), *honest[at + 1 :]])
    assert (first, last, Kind.DAMAGED) in named
    assert all(first <= one[0] <= one[1] <= last for one in named)

    struct.pack_into(">I", flipped, 17, calc_crc32c(bytes(flipped[21:])))
    named = write_back([*honest[:at], bytes(flipped), *honest[at + 1 :]])
    assert named
    assert all(first <= one[0] <= one[1] <= last for one in named)

    assert write_back([*honest[:at], *honest[at + 1 :]]) == [(first, last, Kind.REMOVED)]
    swapped = [*honest[:at], honest[at + 1], honest[at], *honest[at + 2 :]]
    assert write_back(swapped) == [(first, last, Kind.OUT_OF_ORDER)]
    cut = offsets(honest[-2])[0], offsets(honest[-1])[1]
    assert write_back(honest[:-2]) == [(*cut, Kind.TRUNCATED)]
    assert write_back(honest) == []


async def test_it_goes_on_after_a_crash_and_stops_when_the_log_regrew(bus, topic, seals, tmp_path):
    await write(bus, topic, 5)
    signer = load_signer(tmp_path / "credentials", "loomos")
    await seal_until(bus, Notary(tmp_path / "trees", topic, 0, signer), seals, 16)
    await write(bus, topic, 5)
    notary = Notary(tmp_path / "trees", topic, 0, signer)
    assert notary.resume.offset == 13
    await seal_until(bus, notary, seals, 32)
    assert (await verify_live(bus, open_tree(notary.folder, signer.verifier))).records == 32

    await regrow(bus, topic)
    with pytest.raises((Contradiction, LogDiverged), match=topic):
        await seal_until(bus, Notary(tmp_path / "trees", topic, 0, signer), seals, 64)
    sealed = open_tree(notary.folder, signer.verifier)
    assert (await verify_live(bus, sealed)).faults


async def regrow(bus, topic):
    """The log is lost, and another one of the same name takes its place."""
    admin = AIOKafkaAdminClient(**connection(bus))
    await admin.start()
    await admin.delete_topics([topic])
    while topic in await admin.list_topics():
        await asyncio.sleep(0.05)
    settings = {"message.timestamp.type": "LogAppendTime"}
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=settings)])
    while topic not in await admin.list_topics():
        await asyncio.sleep(0.05)
    await admin.close()
    await write(bus, topic, 20)


async def published(bus, topic):
    """The newest checkpoint of a tree on `loomos.seals`."""
    consumer = AIOKafkaConsumer(**connection(bus), auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(TOPIC, 0)])
        deadline, note = time.monotonic() + 60, ""
        while time.monotonic() < deadline:
            batches = await consumer.getmany(timeout_ms=500)
            for record in (record for batch in batches.values() for record in batch):
                event = loomdb_pb2.CheckpointSigned.FromString(record.value)
                if event.tree_id == f"{topic}-0":
                    note = event.checkpoint
            if note and not batches:
                return note
    finally:
        await consumer.stop()
    return note
