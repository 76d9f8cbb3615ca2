"""Sealing and erasure on real stores: who may sees it, then nobody does, and no backup helps."""

import asyncio
import contextlib
import json
import shutil
import uuid
from pathlib import Path

import pytest
from google.protobuf import json_format
from tests.sealed_world import dump, eventually, raw_log, serving, tell

from loom.kit.errors import Failure
from loom.kit.sealing import ERASED, HIDDEN, digests_of
from loom.kit.service import digest_of
from loom.log import providers
from loom.log.keyring import Keyring
from loom.log.keystore import Directory
from loom.log.note import Verifier
from loom.log.reader import Reader
from loom.log.verify import open_trees, verify_folder
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.data.main import SERVICE as DATA
from loomos.embedded.postgres import psql
from loomos.loomdb.main import SERVICE as LOOMDB

SCHEMA = {
    "type": "object",
    "properties": {
        "email": {"type": "string", "x-loomos-personal": True},
        "positive": {"type": "boolean", "x-loomos-personal": True},
        "visits": {
            "type": "array",
            "items": {"properties": {"note": {"type": "string", "x-loomos-personal": True}}},
        },
        "city": {"type": "string"},
    },
}
ADA, GRACE = "ada.lovelace@example.org", "grace.hopper@example.org"
NOTE = "the-note-that-nobody-else-may-read"
BASE = {"email": ADA, "positive": True, "visits": [{"note": NOTE, "at": 5}], "city": "London"}


def appending(subject, content, event_id=""):
    return data_pb2.AppendEventRequest(
        organisation_id="acme",
        event=data_pb2.NewEvent(
            type="person.seen",
            event_id=event_id,
            stream="clinic",
            data_subject=subject,
            payload_json=json.dumps(content),
        ),
    )


async def seen(shell, count, personal=True, principal="user:usr-acme-x"):
    """What the index shows of the users' events, once there are so many."""

    async def listed():
        request = pb.ListEventsRequest(organisation_id="acme", type_prefix="person.", limit=100)
        page = await tell(shell, request, personal, principal)
        return page if len(page.events) == count else None

    page = await eventually(listed)
    return [json_format.MessageToDict(event.payload)["payload"] for event in page.events]


def files_under(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


async def leaks(platform, *words: str) -> list[str]:
    """Where any of the words stands in clear."""
    psql(platform.admin_dsn, "CHECKPOINT")
    sought = [word.encode() for word in words]
    found = []
    log, rows = await raw_log(platform.administrator), dump(platform).encode()
    assert b"London" in log and b"London" in rows, "nothing was searched"
    for name, content in (("log", log), ("tables", rows)):
        found += [f"{name}: {word!r}" for word in sought if word in content]
    for path in files_under(platform.home.path):
        with contextlib.suppress(FileNotFoundError):
            content = path.read_bytes()
            found += [f"{path}: {word!r}" for word in sought if word in content]
    return found


def back_up(platform) -> None:
    """Copy the tables of loomdb and of data as they are."""
    psql(platform.admin_dsn, "DROP SCHEMA IF EXISTS backup CASCADE; CREATE SCHEMA backup")
    for table in tables_of(platform):
        name = table.replace(".", "_")
        psql(platform.admin_dsn, f"CREATE TABLE backup.{name} AS TABLE {table}")


def restore(platform) -> None:
    """Put the copy in the place of what came since."""
    for table in tables_of(platform):
        name = table.replace(".", "_")
        psql(
            platform.admin_dsn,
            f"TRUNCATE {table}; INSERT INTO {table} SELECT * FROM backup.{name}",
        )
    psql(platform.admin_dsn, "DROP SCHEMA backup CASCADE")


def tables_of(platform) -> list[str]:
    return psql(
        platform.admin_dsn,
        "SELECT schemaname || '.' || tablename FROM pg_tables "
        "WHERE schemaname IN ('loomdb', 'data')",
    ).split()


@pytest.mark.timeout(180)
async def test_an_erased_subject_is_gone_from_everywhere_and_the_proofs_still_hold(
    fresh_log, fresh_database, platform, settings, tmp_path
):
    ada, grace = f"patient-{uuid.uuid4().hex[:8]}", f"patient-{uuid.uuid4().hex[:8]}"
    keys = platform.home.path / "keys"
    async with serving(DATA, settings("data")) as data, serving(LOOMDB, settings("loomdb")) as db:
        schema = data_pb2.RegisterSchemaRequest(
            organisation_id="acme",
            event_type="person.seen",
            version="1.0.0",
            schema_json=json.dumps(SCHEMA),
        )
        await tell(data, schema)
        with pytest.raises(Failure, match="data_subject is missing"):
            await tell(data, appending("", BASE))
        wrong = appending(ada, BASE | {"positive": ADA})
        with pytest.raises(Failure) as refused:
            await tell(data, wrong)
        assert ADA not in refused.value.message
        first = appending(ada, BASE, "seen-1")
        await tell(data, first, command_id="once")
        await tell(data, first, command_id="once")
        again = await tell(data, first)
        assert again.duplicates == 1, "the same id with the same content counts once"
        other = appending(ada, BASE | {"city": "Paris"}, "seen-1")
        with pytest.raises(Failure, match="other content"):
            await tell(data, other)
        await tell(data, appending(grace, BASE | {"email": GRACE}, "seen-2"))
        await tell(
            data,
            data_pb2.SubmitBatchRequest(
                organisation_id="acme", events=[appending(ada, BASE, "seen-3").event]
            ),
        )

        # Who may sees it, whoever may not sees that something is there, the subject sees its own.
        assert await seen(db, 3) == [BASE, BASE | {"email": GRACE}, BASE]
        for shown in await seen(db, 3, personal=False):
            assert (shown["email"], shown["positive"]) == (HIDDEN, HIDDEN)
            assert (shown["visits"], shown["city"]) == ([{"note": HIDDEN, "at": 5}], "London")
        own = await seen(db, 3, personal=False, principal=f"user:{ada}")
        assert [shown["email"] for shown in own] == [ADA, HIDDEN, ADA]
        assert await leaks(platform, ADA, GRACE, NOTE) == []

        # A digest of what has few possibilities is keyed: trying them out finds nothing.
        log = await raw_log(platform.administrator)
        assert digest_of(first) not in log and digest_of(wrong) not in log
        secrets = [data.sealing.keyring.newest("acme", one).secret for one in (ada, grace)]
        secrets.append(data.sealing.keyring.newest("acme", digests_of("acme")).secret)
        assert not any(secret in log for secret in secrets)

        preview = await tell(db, pb.PreviewErasureRequest(organisation_id="acme", subject=ada))
        # Two events, and the batch that one of them was handed over in.
        assert (preview.events, len(preview.key_ids), list(preview.holds)) == (3, 2, [])
        erasing = pb.EraseSubjectRequest(
            organisation_id="acme", subject=ada, ground=pb.LEGAL_GROUND_REQUEST, reason="asked"
        )
        hold = pb.PlaceHoldRequest(
            organisation_id="acme", scope=pb.HoldScope(subject=ada), reason="a lawsuit"
        )
        held = await tell(db, hold)
        with pytest.raises(Failure, match="under legal hold"):
            await tell(db, erasing)
        await tell(
            db, pb.ReleaseHoldRequest(organisation_id="acme", hold_id=held.id, reason="it is over")
        )
        unknown = pb.EraseSubjectRequest(
            organisation_id="acme", subject="nobody", ground=pb.LEGAL_GROUND_REQUEST, reason="x"
        )
        with pytest.raises(Failure, match="nothing is sealed for subject 'nobody'"):
            await tell(db, unknown)

        copy = tmp_path / "keys"
        shutil.copytree(keys, copy)
        back_up(platform)
        receipt = await tell(db, erasing)

        async def done():
            request = pb.GetErasureRequest(organisation_id="acme", erasure_id=receipt.id)
            found = await tell(db, request)
            return found if found.completed_at_us else None

        proof = await eventually(done)
        assert (proof.subject, proof.events, proof.ground) == (ada, 3, pb.LEGAL_GROUND_REQUEST)
        assert {key.key_id for key in proof.keys} == set(preview.key_ids)
        assert proof.position.offset < proof.completed_position.offset
        gone = [BASE | {"email": ERASED, "positive": ERASED, "visits": [{"note": ERASED, "at": 5}]}]
        assert await seen(db, 3) == [*gone, BASE | {"email": GRACE}, *gone]
        listed = await tell(db, pb.ListKeysRequest(organisation_id="acme", subject=ada))
        assert [bool(key.destroyed_at_us) for key in listed.keys] == [True, True]

        # Nothing wrapped is left of the dead keys, and the trees say what they said.
        dead = [json.loads(path.read_text())["secret"] for path in copy.glob("data/*/*.json")
                if path.stem in set(preview.key_ids)]  # fmt: skip
        assert len(dead) == 2 and await leaks(platform, ADA, GRACE, NOTE, *dead) == []
        await eventually(lambda: signed(db, platform))

    # An old copy of the keystore and of the database brings nothing back.
    shutil.rmtree(keys)
    shutil.copytree(copy, keys)
    restore(platform)
    restored = Keyring(Directory(keys / "data"), providers.named("file", {}, keys))
    assert all(restored.get(key_id) for key_id in preview.key_ids), "the copy is a working one"
    async with serving(DATA, settings("data")) as data, serving(LOOMDB, settings("loomdb")) as db:
        assert await seen(db, 3) == [*gone, BASE | {"email": GRACE}, *gone]
        assert data.sealing.keyring.get(preview.key_ids[0]) is None
        again = await eventually(lambda: completed(db, receipt.id))
        assert again.completed_event_id == proof.completed_event_id
        # Somebody who comes back is somebody new: what is sealed now is readable.
        await tell(data, appending(ada, BASE, "seen-4"))
        assert await seen(db, 4) == [*gone, BASE | {"email": GRACE}, *gone, BASE]


async def completed(db, erasure_id):
    request = pb.GetErasureRequest(organisation_id="acme", erasure_id=erasure_id)
    found = await tell(db, request)
    return found if found.completed_at_us else None


async def signed(db, platform) -> bool:
    """Whether every record of both topics stands in its signed tree, unchanged."""
    verifier = Verifier.parse((db.settings.credentials / "notary.pub").read_text())
    reports = [
        verify_folder(one, platform.stores.broker.folder / "data")
        for one in open_trees(db.settings.home / "trees", verifier)
        if one.topic in ("loomos.data", "loomos.loomdb")
    ]
    faults = [fault for report in reports for fault in report.faults]
    assert not faults, faults
    return len(reports) == 2


async def test_keys_are_rotated_and_wrapped_anew_by_event(
    fresh_log, fresh_database, platform, settings
):
    subject = f"patient-{uuid.uuid4().hex[:8]}"
    async with serving(LOOMDB, settings("loomdb")) as db:
        ring = db.sealing.keyring
        old = ring.newest("acme", subject)
        before = ring.provider.current
        with pytest.raises(Failure, match="has no key"):
            await tell(db, pb.RotateKeyRequest(organisation_id="acme", subject="nobody"))
        await tell(db, pb.RotateKeyRequest(organisation_id="acme", subject=subject))
        await eventually(lambda: asyncio.sleep(0, ring.newest("acme", subject) != old))
        assert ring.get(old.id) == old
        with pytest.raises(Failure, match="only 'platform'"):
            await tell(db, pb.RewrapKeysRequest(organisation_id="acme"))
        end = await log_end(platform)
        await tell(db, pb.RewrapKeysRequest(organisation_id="platform", renew=True))

        async def moved():
            return {key.kek_id for key in ring.store.living("acme", subject)} != {before}

        await eventually(moved)
        assert ring.provider.current > before
        assert ring.newest("acme", subject).secret != old.secret
        assert await log_end(platform) > end


async def log_end(platform) -> int:
    reader = Reader(platform.administrator, "loomos.loomdb", 0)
    try:
        return await reader.start()
    finally:
        await reader.stop()
