"""The archiver beside LoomDB's other loops on real stores: run now, holds, deletion, rebuild."""

import asyncio
import json

import pytest
from tests.appending import origin
from tests.integration.test_notary_service import Judge, caller, command, eventually, tell, write
from tests.shells import serving

from loom.kit.rebuild import rebuild
from loom.kit.service import Shell
from loom.log.archive import fetch, manifests
from loom.log.cold import cache_of
from loom.log.depot import depot_of
from loom.log.envelope import draft
from loom.log.judge import Kind
from loom.log.parquet import columns_in, decoded
from loom.log.reader import DELETED, Reader, read_all
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.archiver import archive
from loomos.loomdb.main import SERVICE
from loomos.loomdb.seal import notarise

pytestmark = [pytest.mark.bus, pytest.mark.db]


@pytest.fixture
async def archiving(fresh_log, fresh_database, settings, tmp_path):
    """LoomDB with its notary and its archiver at work, in a home of the test's own."""
    made = Shell(SERVICE, settings("loomdb", LOOMOS_HOME=str(tmp_path)))
    made.authorizer = Judge()
    made.owner = "test"
    async with serving(made, lambda: (notarise(made), archive(made))):
        yield made


def user_event(number, days):
    event = data_pb2.EventAppended(
        stream_id="acme/run",
        organisation_id="acme",
        event_id=f"e-{number}",
        event_type="model.training.start",
        payload=json.dumps({"secret": f"word-{number}"}).encode(),
        metadata=data_pb2.EventMetadata(retention_override_days=days),
    )
    told = origin("data", "acme", "user:usr-acme-x", command_id=f"command-{number}")
    return draft([event], [number], told)


async def run_now(shell, topic, young_too=True):
    request = pb.RunArchiveRequest(
        organisation_id="platform", topic=topic, partition=0, young_too=young_too
    )
    await tell(shell, request, caller())


async def page(shell, topic):
    request = pb.ListArchiveRequest(organisation_id="platform", topic=topic)
    return await tell(shell, request, caller())


async def test_a_run_archives_and_shortens_but_a_hold_keeps_kafka_whole(archiving, platform):
    shell, topic = archiving, "loomos.marketplace"
    await write(platform.administrator, topic, [command("acme", f"story-{n}") for n in range(5)])
    before = await read_all(shell.settings, topic)
    scope = pb.HoldScope(correlation_id="story-3")
    hold = pb.PlaceHoldRequest(organisation_id="acme", scope=scope, reason="case 7")
    await tell(shell, hold, caller("acme"))

    async def archived():
        await run_now(shell, topic)
        await asyncio.sleep(1)
        found = await page(shell, topic)
        whole = found.ranges and found.ranges[-1].next_offset == len(before)
        return found if whole else None

    found = await eventually(archived)
    # The story's records are the marker's successors 7 and 8: Kafka holds them still.
    assert all(one.offset <= 7 for one in found.beginnings)

    async def kept():
        request = pb.GetLogRetentionRequest(organisation_id="acme")
        return (await tell(shell, request, caller("acme"))).holds

    (standing,) = await eventually(kept)
    release = pb.ReleaseHoldRequest(
        organisation_id="acme", hold_id=standing.hold_id, reason="case closed"
    )
    await tell(shell, release, caller("acme"))

    async def shortened():
        await run_now(shell, topic)
        await asyncio.sleep(1)
        found = (await page(shell, topic)).beginnings
        return found and found[0].offset == len(before)

    assert await eventually(shortened)
    reader = Reader(shell.settings, topic, 0)
    await reader.start()
    tp = reader._tp
    assert (await reader._consumer.beginning_offsets([tp]))[tp] == len(before)
    await reader.stop()
    assert await read_all(shell.settings, topic) == before
    depot = depot_of(shell.settings)
    columns = []
    for manifest in manifests(depot, topic, 0):
        columns += columns_in(fetch(depot, manifest, cache_of(shell.settings)))
    assert [one.organisation_id for one in columns] == ["", *["acme"] * 10]
    compared = await rebuild(SERVICE, shell.settings, shell.store)
    assert [one.table for one in compared if one.live != one.rebuilt] == []


async def ran(shell):
    request = pb.ListEventsRequest(organisation_id="platform", type_prefix="archive.run.finished")
    events = (await tell(shell, request, caller())).events
    return [(one.stream, one.payload["archived"]) for one in events]


async def test_a_run_asked_for_while_nobody_archives_is_done_later_and_ends(
    fresh_log, fresh_database, settings, platform, tmp_path
):
    shell = Shell(SERVICE, settings("loomdb", LOOMOS_HOME=str(tmp_path)))
    shell.authorizer = Judge()
    shell.owner = "test"
    await shell.store.open()
    await shell.store.prepare(SERVICE.schema)
    tasks = [asyncio.create_task(loop) for loop in (shell.ownership.own(0), notarise(shell))]
    try:
        await asyncio.wait_for(shell.ownership.serving(), 30)
        topic = "loomos.marketplace"
        await write(platform.administrator, topic, [command("acme", "story")])
        tree = tmp_path / "trees" / f"{topic}-0" / "0" / "checkpoint"

        async def signed():
            return tree.exists()

        assert await eventually(signed)
        request = pb.RunArchiveRequest(
            organisation_id="platform", topic=topic, partition=0, young_too=True
        )
        run_id = (await tell(shell, request, caller())).id
        assert await ran(shell) == []
        tasks.append(asyncio.create_task(archive(shell)))

        async def over():
            return await ran(shell)

        assert await eventually(over) == [(run_id, 1.0)]
        assert (await page(shell, topic)).ranges
    finally:
        died = [task.exception() for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await shell.client.close()
        await shell.store.close()
    assert died == []


async def test_what_is_over_is_deleted_and_leaves_the_index(archiving, platform, monkeypatch):
    shell, topic = archiving, "loomos.data"
    # A second is a day: what is kept for one day is over soon, what is kept for 36500 is not.
    monkeypatch.setattr("loomos.loomdb.retention.DAY_US", 1_000_000)
    await write(
        platform.administrator, topic, [user_event(1, 36500), user_event(2, 1), user_event(3, 1)]
    )

    async def deleted():
        await run_now(shell, topic)
        await asyncio.sleep(1)
        return sum(one.deleted for one in (await page(shell, topic)).ranges) == 2

    assert await eventually(deleted)
    records = await read_all(shell.settings, topic)
    events = [one for one in records if one.verdict.kind == Kind.EVENT]
    assert [one.verdict.reason for one in events] == ["", DELETED, DELETED]
    depot = depot_of(shell.settings)
    kept = []
    for manifest in manifests(depot, topic, 0):
        kept += decoded(fetch(depot, manifest, cache_of(shell.settings)))
    assert [b"word-" in (one.value or b"") for one in kept] == [False, True, False, False]

    async def indexed():
        request = pb.ListEventsRequest(organisation_id="platform", stream="acme/run")
        return len((await tell(shell, request, caller())).events) == 1

    assert await eventually(indexed)
    compared = await rebuild(SERVICE, shell.settings, shell.store)
    assert [one.table for one in compared if one.live != one.rebuilt] == []
