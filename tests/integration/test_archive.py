"""A partition's beginning in the archive: packed, verified, forgotten by Kafka, read as before."""

import dataclasses

import pytest
from tests import buckets
from tests.appending import append

from loom.log.archive import Manifest, fetch, manifests, newest
from loom.log.archiver import check, discard, pack, rewrite, signed_tree
from loom.log.deletions import Deletions
from loom.log.depot import Depot
from loom.log.envelope import Origin, draft
from loom.log.judge import Base
from loom.log.notary import Notary
from loom.log.note import load_signer
from loom.log.parquet import LEVEL_LATER, DamagedArchive, columns_of, decoded
from loom.log.reader import DELETED, LogDiverged, read_all
from loom.log.segments import Stored
from loom.log.shorten import shorten
from loom.log.verify import Kind
from loom.log.verify_live import verify_live
from loom.v1 import common_pb2, loomdb_pb2
from loomos.loomdb.query.cold import cold_rows

pytestmark = [pytest.mark.bus]


class Place:
    """The way into Kafka, and where its archive lies."""

    def __init__(self, bus, archive, endpoint, login, home):
        self._bus, self.archive, self.home = bus, archive, home
        self.archive_endpoint, self.archive_login = endpoint, login

    def __getattr__(self, name):
        return getattr(self._bus, name)


def found_by(record):
    return columns_of(record, ("acme", "acme.vision"))


def allowing(topic, offset):
    """A record that says that a policy deleted the content of one."""
    policy = "a" if offset == 3 else "b"
    event = loomdb_pb2.ArchiveDeleted(
        log_id="x", organisation_id="platform", topic=topic, offsets=[offset], policy=policy
    )
    origin = Origin("/loomos/loomdb", "platform", "service:loomdb", policy, bytes(32), 1, 1, "", "")
    (record,) = draft([event], [1], origin)
    return Stored(7, 1, record.key, record.value, list(record.headers))


class World:
    """A partition with a signed tree and an archive."""

    def __init__(self, bus, topic, folder, url, endpoint="", login=("", "")):
        self.topic, self.folder = topic, folder
        self.bus = Place(bus, url, endpoint, login, folder / "home")
        self.depot = Depot(url, endpoint, login)
        self.cache = folder / "cache"
        self.trees = folder / "trees"
        self.signer = load_signer(folder / "credentials", "loomos")

    async def sign(self):
        notary = Notary(self.trees, self.topic, 0, self.signer)
        for record in await read_all(self.bus, self.topic, base=notary.resume):
            notary.append(record.offset, record.timestamp_ms, record.verdict)
        notary.seal()
        return signed_tree(self.trees, self.topic, 0, self.signer.verifier)

    async def pack(self, sealed, last=None, due=lambda record: True, rows_max=1000):
        return await pack(
            self.bus, sealed, self.depot, self.cache, last, due, found_by, rows_max=rows_max
        )


@pytest.fixture(params=["folder", "s3"])
def world(request, bus, topic, tmp_path):
    if request.param == "folder":
        yield World(bus, topic, tmp_path, str(tmp_path / "archive"))
        return
    with buckets.serving(tmp_path / "s3") as endpoint:
        yield World(bus, topic, tmp_path, f"s3://{buckets.BUCKET}/logs", endpoint, buckets.LOGIN)


async def test_a_shortened_log_reads_and_verifies_as_before(world, writer, note):
    await append(writer, [note("a", n, f"text {n}", "more") for n in range(1, 101)])
    sealed = await world.sign()
    before = await read_all(world.bus, world.topic)
    first = await world.pack(sealed, rows_max=90)
    second = await world.pack(sealed, first, rows_max=90)
    assert (first.first_offset, first.next_offset) == (0, 89)  # a marker and whole commands
    assert second.first_offset == 89
    assert newest(manifests(world.depot, world.topic, 0)) == [first, second]
    assert await shorten(world.bus, world.topic, 0, second.next_offset) == second.next_offset

    assert await read_all(world.bus, world.topic) == before
    inside = Base.parse(first.base_after)
    assert await read_all(world.bus, world.topic, base=inside) == before[89:]
    edge = Base.parse(second.base_after)
    assert await read_all(world.bus, world.topic, base=edge) == before[second.next_offset :]
    report = await verify_live(world.bus, sealed)
    assert (report.faults, report.records) == ((), sealed.tree.size)

    # Who has no archive, or another past, is told so and reads nothing.
    without = Place(world.bus, "", "", ("", ""), world.folder)
    with pytest.raises(LogDiverged, match="no archive is known"):
        await read_all(without, world.topic)
    with pytest.raises(LogDiverged, match="is not the one that was read before"):
        await read_all(world.bus, world.topic, base=inside._replace(claim=bytes(16)))

    # The writer goes on, and so does a reader that crosses from cold to hot.
    await append(writer, [note("a", 101, "after")])
    again = await read_all(world.bus, world.topic)
    assert again[:-1] == before
    assert all(record.verdict.valid for record in again)


async def test_a_rewritten_range_replaces_the_old_one_and_deleted_records_stay_proved(
    world, writer, note
):
    await append(writer, [note("a", n, f"secret {n}" * 20) for n in range(1, 41)])
    sealed = await world.sign()
    before = await read_all(world.bus, world.topic)
    first = await world.pack(sealed)
    await shorten(world.bus, world.topic, 0, first.next_offset)
    later = await rewrite(world.depot, world.cache, first, sealed, LEVEL_LATER)
    assert (later.generation, later.level, later.root) == (1, LEVEL_LATER, first.root)
    discard(world.depot, first)
    assert await read_all(world.bus, world.topic) == before

    gone = await rewrite(world.depot, world.cache, later, sealed, LEVEL_LATER, {3: b"left", 4: b""})
    discard(world.depot, later)
    assert gone.deleted == 2
    content = fetch(world.depot, gone, world.cache).read_bytes()
    kept = {record.offset: record for record in decoded(fetch(world.depot, gone, world.cache))}
    assert (kept[3].value, kept[4].value) == (b"left", b"")
    assert kept[3].digest == before[3].verdict.digest
    assert b"secret 3secret 3" not in content
    found = await read_all(world.bus, world.topic)
    assert [record.offset for record in found if record.verdict.reason == DELETED] == [3, 4]
    assert [one for one in found if one.offset not in (3, 4)] == before[:3] + before[5:]
    assert all(record.verdict.valid for record in found)
    report = await verify_live(world.bus, sealed)
    assert [one[2:5] for one in report.faults] == [(3, 4, Kind.MISSING)]
    deletions = Deletions()
    for offset in (3, 4):
        deletions.hear(allowing(world.topic, offset))
    report = await verify_live(world.bus, sealed, deletions)
    assert (report.faults, report.records) == ((), sealed.tree.size)
    assert [(one.policy, count) for one, count in report.deleted] == [("a", 1), ("b", 1)]
    assert [one.name for one in world.depot.list(world.topic)] == [gone.name, gone.object]


async def test_only_what_is_due_and_signed_is_archived(world, writer, note):
    await append(writer, [note("a", n, "x", "y") for n in range(1, 6)])
    sealed = await world.sign()
    await append(writer, [note("a", n, "x") for n in range(6, 9)])
    assert await world.pack(sealed, due=lambda record: False) is None
    some = await world.pack(sealed, due=lambda record: record.offset < 4)
    assert some.next_offset == 3  # offset 3 begins a command that is not due as a whole
    rest = await world.pack(sealed, some)
    assert rest.next_offset == sealed.tree.size
    assert await world.pack(sealed, rest) is None


async def test_what_an_interrupted_try_left_is_taken_or_written_anew(world, writer, note):
    await append(writer, [note("a", n, "x") for n in range(1, 6)])
    sealed = await world.sign()
    first = await world.pack(sealed)
    assert await world.pack(sealed, due=lambda record: record.offset < 3) == first
    world.depot.remove(first.name)
    shorter = await world.pack(sealed, due=lambda record: record.offset < 3)
    assert (shorter.name, shorter.next_offset) == (first.name, 3)


@pytest.mark.parametrize("what", ["object", "rows", "root", "base", "topic"])
async def test_a_changed_archive_is_found(bus, topic, writer, note, tmp_path, what):
    world = World(bus, topic, tmp_path, str(tmp_path / "archive"))
    await append(writer, [note("a", n, "x") for n in range(1, 6)])
    sealed = await world.sign()
    manifest = await world.pack(sealed)
    path = world.depot.path(manifest.object)
    match what:
        case "object":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
            forged = manifest
        case "rows":
            forged = dataclasses.replace(manifest, rows=manifest.rows - 1)
        case "root":
            forged = dataclasses.replace(manifest, first_index=manifest.first_index + 1)
        case "base":
            base = Base.parse(manifest.base_after)._replace(n=7)
            forged = dataclasses.replace(manifest, base_after=base.text())
        case "topic":
            forged = dataclasses.replace(manifest, topic="loomos.other")
            world.depot.put(forged.object, path.read_bytes())
    world.depot.remove(forged.name)
    world.depot.put(forged.name, forged.text())
    with pytest.raises(DamagedArchive):
        check(world.depot, world.cache, forged, sealed)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"format": 2}', b'{"format": 1}', b"\xff"])
def test_a_hostile_manifest_is_refused(text):
    with pytest.raises(DamagedArchive, match="not a manifest"):
        Manifest.parse(text)


async def test_the_archive_itself_is_searched(bus, topic, writer, note, tmp_path):
    world = World(bus, topic, tmp_path, str(tmp_path / "archive"))
    await append(writer, [note("a", n, f"text {n}") for n in range(1, 11)])
    await append(writer, [note("b", 1, "other")])
    sealed = await world.sign()
    first = await world.pack(sealed, due=lambda record: record.offset < 6)
    second = await world.pack(sealed, first)

    def asked(limit=100, **wanted):
        return cold_rows(world.depot, world.cache, [first, second], wanted, limit)

    rows = asked()
    assert [row["record_offset"] for row in rows] == list(range(1, 12))
    assert rows[2]["payload"] == {"shard_id": "a", "command_type": "text 3"}
    assert (rows[2]["type"], rows[2]["shard"]) == ("command.acknowledged", "local")
    assert [row["stream"] for row in asked(stream="b")] == ["b"]
    assert asked(type_prefix="job.") == asked(correlation_id="else") == []
    assert [row["record_offset"] for row in asked(limit=2)] == [1, 2]
    assert asked(stream="' OR 1=1 --") == []
    left = recorded_value(rows[2])
    first = await rewrite(world.depot, world.cache, first, sealed, LEVEL_LATER, {3: left})
    gone = asked()[2]
    assert (gone["record_offset"], gone["deleted"], gone["payload"]) == (3, True, {})


def recorded_value(row):
    """What a policy leaves of an event."""
    return common_pb2.CommandAcknowledged(shard_id=row["stream"]).SerializeToString()
