"""A log that lost its tail, or all of it, goes on as its next incarnation; the rest is proved."""

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tests.appending import append
from tests.integration.conftest import writing
from tests.integration.test_archive import World

from loom.kit.contract import Hears
from loom.kit.folder import Inputs
from loom.log.archive import fetch
from loom.log.archiver import archived, recorded
from loom.log.judge import Base
from loom.log.merkle import consistency_proof, verify_consistency
from loom.log.notary import Contradiction, Notary, newest_incarnation
from loom.log.parquet import decoded
from loom.log.reader import LogDiverged, read_all
from loom.log.restore import NothingLost, begin, begun, fork, measure, refill
from loom.log.topics import Topic, connection
from loom.log.verify import open_trees
from loom.log.verify_live import verify_live
from loom.v1 import common_pb2

pytestmark = [pytest.mark.bus]


async def lose(world, records):
    """Make the topic anew with these records alone, as they stood."""
    admin = AIOKafkaAdminClient(**connection(world.bus))
    await admin.start()
    try:
        await admin.delete_topics([world.topic])
        while world.topic in await admin.list_topics():
            await asyncio.sleep(0.02)
        await admin.create_topics([NewTopic(world.topic, 1, 1)])
        while world.topic not in await admin.list_topics():
            await asyncio.sleep(0.02)
    finally:
        await admin.close()
    kept = [archived(record) for record in records]
    assert await refill(world.bus, Topic(world.topic, ()), 0, kept) == len(kept)


@pytest.fixture
def world(bus, topic, tmp_path):
    return World(bus, topic, tmp_path, str(tmp_path / "archive"))


async def test_a_lost_tail_becomes_the_next_incarnation(world, note):
    async with writing(world.bus, world.topic) as writer:
        await append(writer, [note("a", n, "x", "y") for n in range(1, 11)])
    sealed = await world.sign()
    before = await read_all(world.bus, world.topic)
    with pytest.raises(NothingLost):
        await measure(world.bus, sealed)
    beyond = before[-1].base

    await lose(world, before[:11])
    with pytest.raises(LogDiverged):
        await read_all(world.bus, world.topic, base=beyond)
    loss = await measure(world.bus, sealed)
    assert (loss.shared_size, loss.lost_from, loss.lost_through) == (11, 11, 20)
    assert loss.shared == before[10].base
    assert not await begun(world.bus, sealed)
    event = await begin(world.bus, sealed, loss, "operator:ada", "disk 2 failed")
    assert (event.incarnation, event.shared_size, event.lost_from) == (1, 11, 11)
    assert await begun(world.bus, sealed)
    fork(world.trees, sealed, loss, world.signer)

    # Records of the new incarnation, a new tree over them, and the proof of what both share.
    async with writing(world.bus, world.topic) as writer:
        await append(writer, [note("b", n, "z") for n in range(1, 4)])
    found = await read_all(world.bus, world.topic)
    assert found[:11] == before[:11]
    assert [record.verdict.stamp.incarnation for record in found[11:]] == [1] * 6
    told = recorded(archived(found[12]), world.topic, 0).event
    assert told == event
    assert newest_incarnation(world.trees, world.topic, 0) == 1
    notary = Notary(world.trees, world.topic, 0, world.signer, 1)
    for record in await read_all(world.bus, world.topic, base=notary.resume):
        notary.append(record.offset, record.timestamp_ms, record.verdict)
    notary.seal()
    (fresh,) = open_trees(world.trees, world.signer.verifier)
    assert fresh.incarnation == 1
    assert (await verify_live(world.bus, fresh)).faults == ()
    shared = sealed.tree.root(11)
    for tree, root in ((sealed.tree, sealed.checkpoint.root), (fresh.tree, fresh.checkpoint.root)):
        path = consistency_proof(11, tree.size, tree.node)
        assert verify_consistency(11, tree.size, path, shared, root)
    # The old notary signs nothing more.
    old = Notary(world.trees, world.topic, 0, world.signer)
    with pytest.raises(Contradiction, match="the log went backwards"):
        old.check_end(len(found))


async def test_what_was_heard_of_a_lost_tail_stays_unheard(world, note):
    async with writing(world.bus, world.topic) as writer:
        await append(writer, [note("a", n, f"{n}") for n in range(1, 9)])
    sealed = await world.sign()
    before = await read_all(world.bus, world.topic)
    await lose(world, before[:5])
    loss = await measure(world.bus, sealed)
    await begin(world.bus, sealed, loss, "operator:ada", "lost")

    def moved(first, last):
        base: Base = before[last].base
        place = common_pb2.Position(offset=base.offset, incarnation=base.incarnation)
        return common_pb2.Input(next=place, from_offset=first, digest=base.before)

    for _ in range(2):
        inputs = Inputs(world.bus, Hears("x"), world.topic, 0)
        try:
            heard = [
                [one.event.command_type for one in await inputs.take(step)]
                for step in (moved(0, 2), moved(3, 6), moved(7, 8))
            ]
        finally:
            await inputs.stop()
        assert heard == [["1", "2"], ["3", "4"], []]


async def test_an_emptied_partition_is_filled_from_the_archive(world, note):
    async with writing(world.bus, world.topic) as writer:
        await append(writer, [note("a", n, "x") for n in range(1, 9)])
    sealed = await world.sign()
    before = await read_all(world.bus, world.topic)
    manifest = await world.pack(sealed, due=lambda record: record.offset < 6)
    await lose(world, [])
    records = decoded(fetch(world.depot, manifest, world.cache))
    assert await refill(world.bus, Topic(world.topic, ()), 0, records) == 6
    assert await read_all(world.bus, world.topic) == before[:6]
    loss = await measure(world.bus, sealed)
    assert (loss.shared_size, loss.lost_from, loss.lost_through) == (6, 6, 8)
    with pytest.raises(ValueError, match="not empty"):
        await refill(world.bus, Topic(world.topic, ()), 0, records)
