"""What a policy deletes: batches go with their events, indexes made in any order agree, and answers
and exports say what is gone and by whose leave."""

import asyncio
import json
import uuid

import pytest
from tests.integration.test_archive import Place
from tests.integration.test_archiver_service import archiving, page, run_now
from tests.integration.test_notary_service import caller, eventually, tell, write

from loom.kit.rebuild import rebuild
from loom.log.archive import fetch, manifests
from loom.log.clock import now_us
from loom.log.cold import cache_of
from loom.log.depot import depot_of
from loom.log.envelope import Origin, draft
from loom.log.parquet import decoded
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.main import SERVICE

pytestmark = [pytest.mark.bus, pytest.mark.db]
__all__ = ["archiving"]

TOPIC = "loomos.data"


def drafted(*events, versions=None):
    """The records of one command of acme's."""
    versions = versions or [1] * len(events)
    origin = Origin(
        "/loomos/data", "acme", "user:usr-acme-x", uuid.uuid4().hex, bytes(32), now_us(),
        now_us(), "story", "",
    )  # fmt: skip
    return draft(events, versions, origin)


def kept_for(days):
    return data_pb2.EventMetadata(retention_override_days=days)


def handed(name, days=1, **more):
    return data_pb2.NewEvent(
        event_id=name,
        type="model.training.start",
        stream="run",
        payload_json=json.dumps({"secret": f"word-{name}"}),
        metadata=kept_for(days),
        **more,
    )


def accepted(name, *events):
    return data_pb2.BatchAccepted(batch_id=f"batch-{name}", organisation_id="acme", events=events)


def processed(name, finished=True):
    return data_pb2.BatchProcessed(
        batch_id=f"batch-{name}", organisation_id="acme", done=1, finished=finished
    )


def appended(name, days=1):
    return data_pb2.EventAppended(
        stream_id="acme/run",
        organisation_id="acme",
        event_id=name,
        event_type="model.training.start",
        payload=json.dumps({"secret": f"word-{name}"}).encode(),
        metadata=kept_for(days),
    )


@pytest.fixture
async def short_days(archiving, monkeypatch):
    """The archiver where a second is a day."""
    monkeypatch.setattr("loomos.loomdb.retention.DAY_US", 1_000_000)
    return archiving


async def deleted(shell, count):
    """Wait until so many records are without content."""

    async def gone():
        await run_now(shell, TOPIC)
        await asyncio.sleep(1)
        return sum(one.deleted for one in (await page(shell, TOPIC)).ranges) == count

    assert await eventually(gone)


def archived(shell):
    """All that the archive has of the topic."""
    depot, found = depot_of(shell.settings), []
    for manifest in manifests(depot, TOPIC, 0):
        found += decoded(fetch(depot, manifest, cache_of(shell.settings)))
    return b"".join(one.value or b"" for one in found)


async def hold(shell, **scope):
    scope = pb.HoldScope(**scope)
    request = pb.PlaceHoldRequest(organisation_id="acme", scope=scope, reason="case 7")
    return await tell(shell, request, caller("acme"))


async def wrote(shell, platform, *commands):
    """Append commands of data's own, over a beginning that only the archive has."""
    settings = shell.settings
    bus = Place(platform.administrator, settings.archive, "", ("", ""), settings.home)
    await write(bus, TOPIC, commands)


async def test_a_batch_goes_with_the_last_of_its_events(short_days, platform):
    shell = short_days
    await hold(shell, subject="held-run")
    held = handed("held")
    held.stream = "held-run"
    # Over, with its event; waiting for its end; one event kept for long; one event held.
    await wrote(
        shell,
        platform,
        drafted(accepted("a", handed("a"))),
        drafted(appended("a"), processed("a"), versions=[1, 2]),
        drafted(accepted("b", handed("b"))),
        drafted(processed("b", finished=False), versions=[2]),
        drafted(accepted("c", handed("c"), handed("long", 36500))),
        drafted(processed("c"), versions=[2]),
    )
    await deleted(shell, 2)
    left = archived(shell)
    assert [name for name in ("a", "b", "c") if b"word-" + name.encode() in left] == ["b", "c"]
    # The batch ends: now its copy may go.
    await wrote(
        shell,
        platform,
        drafted(processed("b"), versions=[3]),
        drafted(accepted("d", handed("d"), held)),
        drafted(processed("d"), versions=[2]),
    )
    await deleted(shell, 3)
    left = archived(shell)
    assert b"word-b" not in left and b"word-c" in left and b"word-long" in left
    compared = await rebuild(SERVICE, shell.settings, shell.store)
    assert [one.table for one in compared if one.live != one.rebuilt] == []
