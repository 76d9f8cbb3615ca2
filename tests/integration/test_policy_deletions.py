"""What a policy deletes: batches go with their events, indexes made in any order agree, and answers
and exports say what is gone and by whose leave."""

import asyncio
import json
import shutil
import subprocess
import sys

import pytest
from tests.appending import origin
from tests.integration.test_archive import Place
from tests.integration.test_archiver_service import archiving, page, run_now
from tests.integration.test_notary_service import caller, eventually, tell, write

from loom.decider import Rejected
from loom.kit.rebuild import copy_range, make, positions_in, rebuild, set_path, table_digests
from loom.log.archive import fetch, manifests
from loom.log.cold import cache_of
from loom.log.deletions import Deletions
from loom.log.depot import depot_of
from loom.log.envelope import draft
from loom.log.judge import START
from loom.log.note import Verifier
from loom.log.parquet import decoded
from loom.log.verify import heard_first, open_trees
from loom.log.verify_live import verify_live
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.cli.audit_export import export
from loomos.loomdb import query
from loomos.loomdb.main import SERVICE
from loomos.verify import loomos_verify

pytestmark = [pytest.mark.bus, pytest.mark.db]
__all__ = ["archiving"]

TOPIC = "loomos.data"


def drafted(*events, versions=None):
    """The records of one command of acme's."""
    versions = versions or [1] * len(events)
    return draft(events, versions, origin("data", "acme", "user:usr-acme-x"))


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


class Served:
    """An export's source that asks LoomDB itself; what it asks is asked ahead of time."""

    def __init__(self, shell, pages):
        self.folder = shell.settings.home / "trees" / f"{TOPIC}-0" / "0"
        self.pages = pages
        self.deletions = {one.record: one.tlog_proof for page in pages for one in page.deletions}

    def tree(self, log, path):
        file = self.folder / path
        return file.read_bytes() if file.exists() else None

    def records(self, log, first, end):
        yield from (page.records for page in self.pages)


async def exported(shell, who, organisation, out):
    """An export of the topic as somebody gets it; what the stranger's verifier says of it."""
    asked = pb.ExportRecordsRequest(organisation_id=organisation, topic=TOPIC, end_offset=1000)
    pages = []
    while asked.first_offset < asked.end_offset:
        pages.append(await tell(shell, asked, who))
        asked.first_offset = pages[-1].next_offset
    key = shell.settings.credentials / "notary.pub"
    export(
        Served(shell, pages),
        [f"{TOPIC}-0"],
        out,
        public_key=key.read_text(),
        complete=all(page.complete for page in pages),
    )
    return subprocess.run(
        [sys.executable, "-I", loomos_verify.__file__, str(out), "--key", str(key)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


async def test_answers_and_exports_say_what_a_policy_deleted(short_days, platform, tmp_path):
    shell = short_days
    kept, gone = drafted(appended("kept", 36500)), drafted(appended("gone"), appended("too"))
    await wrote(shell, platform, kept, gone)
    await deleted(shell, 2)

    async def moved():
        request = pb.ListEventsRequest(organisation_id="acme", type_prefix="model.")
        page = await tell(shell, request, caller("acme"))
        return page if page.deleted_by_policy else None

    page = await eventually(moved)
    assert [one.event_id for one in page.events] == [kept[0].id]
    assert page.deleted_by_policy == 2
    for types, where, counts in (
        (["model."], [], (1, 2)),
        (["model.training.start"], ["payload.secret = word-gone"], (0, 2)),
        (["job."], [], (0, 0)),
    ):
        request = pb.SearchEventsRequest(organisation_id="acme", types=types, where=where)
        found = await tell(shell, request, caller("acme"))
        assert (len(found.events), found.deleted_by_policy) == counts, types
    async with shell.store.connection() as db:
        # However many there are.
        await db.execute(
            "INSERT INTO deleted_events SELECT topic, partition, number, incarnation, event_id, "
            "type, at_us, actor, stream, correlation_id, organisation_id, project_id "
            "FROM generate_series(1000000, 1010500) AS number, "
            "(SELECT * FROM deleted_events LIMIT 1) AS one"
        )
    request = pb.ListEventsRequest(organisation_id="acme", type_prefix="model.")
    assert (await tell(shell, request, caller("acme"))).deleted_by_policy == 10_503
    async with shell.store.connection() as db:
        await db.execute("DELETE FROM deleted_events WHERE record_offset >= 1000000")
    other = pb.ListEventsRequest(organisation_id="other", type_prefix="model.")
    assert (await tell(shell, other, caller("other"))).deleted_by_policy == 0
    with pytest.raises(Rejected, match=r"deleted by policy \(the event's own=1 days\), event "):
        request = pb.GetEventRequest(organisation_id="acme", event_id=gone[0].id)
        await tell(shell, request, caller("acme"))
    with pytest.raises(Rejected, match=f"^no event '{gone[0].id}'$"):
        request = pb.GetEventRequest(organisation_id="other", event_id=gone[0].id)
        await tell(shell, request, caller("other"))
    async with shell.db() as db:
        moment = await query.get_moment(pb.GetMomentRequest(event_id=gone[0].id), caller(), db)
    assert (moment.event_id, moment.organisation_id) == (gone[0].id, "acme")

    # Whoever gets an export finds in it why content is gone, and so does who has it all.
    for who, organisation in ((caller(), "platform"), (caller("acme"), "acme")):
        result = await exported(shell, who, organisation, tmp_path / organisation)
        assert result.returncode == 0, result.stdout + result.stderr
        assert "content of 2 records was deleted by policy \"the event's own" in result.stdout
    shutil.rmtree(tmp_path / "acme/deletions")
    words = [sys.executable, "-I", loomos_verify.__file__, str(tmp_path / "acme")]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.count("missing")) == (1, 1)
    verifier = Verifier.parse((shell.settings.credentials / "notary.pub").read_text())
    deletions, told = Deletions(), []
    for tree in heard_first(open_trees(shell.settings.home / "trees", verifier)):
        report = await verify_live(shell.settings, tree, deletions)
        assert report.faults == ()
        told += [(one.policy, count) for one, count in report.deleted]
    assert told == [("the event's own=1 days", 2)]


async def test_indexes_made_in_any_order_of_topics_agree(short_days, platform):
    shell = short_days
    await wrote(
        shell,
        platform,
        drafted(appended("kept", 36500)),
        drafted(accepted("a", handed("a"))),
        drafted(appended("gone"), processed("a"), versions=[1, 2]),
    )
    await deleted(shell, 2)

    async def tables(reverse):
        name = f"{shell.store.schema}__other"
        async with shell.store.connection() as db:
            await make(db, name, SERVICE.schema)
            for place in sorted(await positions_in_live(db), reverse=reverse):
                await db.execute(set_path(name))
                await copy_range(SERVICE, shell.settings, db, place, START, lambda _: None)
            found = await table_digests(db, name)
            await db.execute(f"DROP SCHEMA {name} CASCADE")
        return found

    async def positions_in_live(db):
        await db.execute(set_path(shell.store.schema))
        places = await positions_in(db)
        await db.execute(set_path(f"{shell.store.schema}__other"))
        return places

    first, second = await tables(False), await tables(True)
    assert first == second
    assert (first["deleted_events"][0], first["policy_deletions"][0]) == (2, 2)
