"""The write path on a real broker: claims, read-back, void records, bases, a log that regrew."""

import asyncio

import pytest
from aiokafka import AIOKafkaProducer
from tests.appending import append, numbered, origin

from loom.log import envelope
from loom.log.envelope import Draft
from loom.log.judge import START, ZERO_DIGEST, Base, Kind, Stamp
from loom.log.reader import LogDiverged, Reader, read_all
from loom.log.topics import connection
from loom.log.writer import Deposed, Writer
from loom.v1 import common_pb2

pytestmark = [pytest.mark.bus]


def command(stream: str, count: int = 1, text: str = "") -> list[Draft]:
    events = [
        common_pb2.CommandAcknowledged(shard_id=stream, command_type=f"{text}{index}")
        for index in range(count)
    ]
    return envelope.draft(events, range(1, count + 1), origin())


async def ignore(_: list) -> None:
    return None


async def claim(bus, topic: str, base: Base = START) -> tuple[Writer, asyncio.Task]:
    writer = Writer(bus, topic, 0, "test", base)
    await writer.begin(ignore)
    return writer, asyncio.create_task(writer.confirm())


async def drop(writer: Writer, reading: asyncio.Task) -> None:
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await writer.close()


async def test_confirmed_commands_are_read_once_in_order(bus, topic):
    writer, reading = await claim(bus, topic)
    offsets = await append(writer, [command("a", 1), command("b", 3), command("c", 2)])
    await drop(writer, reading)
    assert offsets == sorted(offsets)
    events = [r for r in await read_all(bus, topic) if r.verdict.kind == Kind.EVENT]
    assert [r.verdict.stamp.n for r in events] == [1, 2, 3, 4, 5, 6]
    assert [(r.verdict.stamp.i, r.verdict.stamp.m) for r in events] == [
        (1, 1), (1, 3), (2, 3), (3, 3), (1, 2), (2, 2),
    ]  # fmt: skip


async def test_a_second_claim_deposes_the_first(bus, topic):
    first, reading_first = await claim(bus, topic)
    await append(first, [command("a")])
    second, reading_second = await claim(bus, topic)
    assert second.epoch == first.epoch + 1
    with pytest.raises(Deposed):
        await asyncio.wait_for(reading_first, 10)
    with pytest.raises(Deposed):
        numbered(first, [command("late")])
    await append(second, [command("b")])
    await drop(first, reading_first)
    await drop(second, reading_second)


async def test_a_deposed_writers_late_records_are_void(bus, topic):
    first, reading_first = await claim(bus, topic)
    reading_first.cancel()
    second, reading_second = await claim(bus, topic)
    late, _ = numbered(first, [command("late", 2)])
    await first.send(late)
    await append(second, [command("b")])
    await drop(first, reading_first)
    await drop(second, reading_second)
    found = await read_all(bus, topic)
    void = [r for r in found if r.verdict.kind == Kind.VOID]
    assert [r.verdict.reason for r in void] == ["epoch 1, the current one is 2"] * 2


async def test_forged_doubled_and_garbage_records_are_void(bus, topic):
    writer, reading = await claim(bus, topic)
    await append(writer, [command("a")])
    stored = next(r for r in await read_all(bus, topic) if r.verdict.kind == Kind.EVENT)
    forged = Stamp(Kind.EVENT, 0, writer.epoch, writer.claim, 2, 1, 1, ZERO_DIGEST)
    producer = AIOKafkaProducer(**connection(bus))
    await producer.start()
    await producer.send_and_wait(topic, value=b"garbage", partition=0)
    await producer.send_and_wait(
        topic, key=stored.key, value=stored.value, headers=list(stored.headers), partition=0
    )
    sealed = envelope.seal(command("x")[0], forged)
    await producer.send_and_wait(
        topic, key=sealed.key, value=sealed.value, headers=sealed.headers, partition=0
    )
    await producer.stop()
    await append(writer, [command("b")])
    await drop(writer, reading)
    found = await read_all(bus, topic)
    assert [r.verdict.kind for r in found] == [
        Kind.MARKER, Kind.EVENT, Kind.VOID, Kind.VOID, Kind.VOID, Kind.EVENT,
    ]  # fmt: skip


async def test_a_reader_goes_on_from_its_base_only(bus, topic):
    writer, reading = await claim(bus, topic)
    await append(writer, [command("a"), command("b")])
    reader = Reader(bus, topic, 0)
    await reader.start()
    while reader.next_offset < await reader.end():
        await reader.batch()
    base = Base.parse(reader.base.text())
    await reader.stop()
    await append(writer, [command("c")])
    later = Reader(bus, topic, 0, base)
    await later.start()
    found = await later.batch()
    assert [r.verdict.kind for r in found] == [Kind.EVENT]
    await later.stop()
    wrong = Reader(bus, topic, 0, base._replace(before=ZERO_DIGEST))
    with pytest.raises(LogDiverged, match=f"partition {topic}/0"):
        await wrong.start()
    await wrong.stop()
    beyond = Reader(bus, topic, 0, base._replace(offset=base.offset + 100))
    with pytest.raises(LogDiverged, match="the log ends at"):
        await beyond.start()
    await beyond.stop()
    await drop(writer, reading)


async def test_a_start_tells_where_the_log_ends_and_no_idle_poll_holds_it_up(bus, topic):
    writer, reading = await claim(bus, topic)
    (last,) = await append(writer, [command("a")])
    base = writer.reader.base
    reader = Reader(bus, topic, 0, base, fetch_wait_ms=600_000)
    async with asyncio.timeout(60):
        assert await reader.start() == base.offset == last + 1
    await reader.stop()
    await drop(writer, reading)


async def test_many_commands_at_once_keep_their_batches_whole(bus, topic):
    writer, reading = await claim(bus, topic)
    commands = [command(f"s{index}", 3, "x" * 4000) for index in range(300)]
    await append(writer, commands)
    await drop(writer, reading)
    events = [r for r in await read_all(bus, topic) if r.verdict.kind == Kind.EVENT]
    assert len(events) == 900
    assert all(r.verdict.valid for r in events)
