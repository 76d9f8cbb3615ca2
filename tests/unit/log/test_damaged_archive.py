"""Whatever happens to the archive, `archive verify` ends, names the object or the range, and says
of content that is gone whether a policy deleted it."""

import hashlib
import json
from dataclasses import replace

import duckdb
import pytest
from damaging import WAYS, damaged, delete, fifo, flip, holes, loop, swapped
from exporting import judged_deletion
from segment_bytes import batches_of, judged, make_log, with_batch_times, write_segment
from typer.testing import CliRunner

from loom.log.archive import Manifest, store
from loom.log.archiver import written
from loom.log.depot import Depot
from loom.log.judge import START, Judge
from loom.log.notary import Notary
from loom.log.note import load_signer
from loom.log.parquet import Archived, Columns, DamagedArchive, decoded, encoded, erased
from loom.log.verify import open_trees
from loomos.cli.archive import archive
from loomos.cli.audit import app

TOPIC, STEP = "loomos.scheduler", 30
LOG = with_batch_times(make_log(119))


def sealed_log(top, topic, log, signer, begin=0):
    notary = Notary(top / "trees", topic, 0, signer)
    for record, verdict in judged(log):
        notary.append(record.offset, record.time_ms, verdict)
    notary.seal()
    write_segment(top / f"copy/{topic}-0", batches_of(log[begin:]), begin)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A signed log of 120 records, the first 90 of them in three archived ranges."""
    top = tmp_path_factory.mktemp("home")
    signer = load_signer(top / "credentials/loomdb", "loomos")
    sealed_log(top, TOPIC, LOG, signer, begin=3 * STEP)
    (top / "archive").mkdir()
    (sealed,) = open_trees(top / "trees", signer.verifier)
    judge, base = Judge(), START
    for at in (0, STEP, 2 * STEP):
        records, end = [], at + STEP
        for one in LOG[at:end]:
            found = judge.admit(one.key, one.headers, one.value)
            kind, epoch = found.kind, found.stamp.epoch
            headers = list(one.headers)
            records.append(Archived(*one[:4], headers, kind, 0, epoch, found.digest))
        after = judge.base(end, LOG[end - 1].time_ms)
        blank = Manifest(
            TOPIC, 0, 0, at, end, STEP, 0, LOG[at].time_ms, LOG[end - 1].time_ms, base.text(),
            after.text(), 0, at, 0, "", "", 3, "", 0,
        )  # fmt: skip
        depot = Depot(str(top / "archive"))
        written(depot, top / "cache", blank, records, [Columns()] * STEP, sealed)
        base = after
    # What says which deletions were allowed: a log that speaks of nothing yet.
    sealed_log(top, "loomos.loomdb", make_log(2), signer)
    return top


@pytest.fixture(autouse=True)
def there(home, monkeypatch):
    monkeypatch.setenv("LOOMOS_HOME", str(home))


def run(home, command=archive, *words):
    words = words or ("--log-dir", str(home / "copy"))
    result = CliRunner().invoke(command, ["verify", *words, "--json"])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


def named(home):
    """The faulty objects; the first and the third range must be as signed."""
    status, rows = run(home)
    faults = [row["object"] for row in rows if row["fault"]]
    assert status == (1 if faults else 0)
    assert not [name for name in faults if f"{0:020}" in name or f"{60:020}" in name]
    return faults


def files(home):
    stem = home / f"archive/{TOPIC}/0/{STEP:020}-000"
    return stem.with_suffix(".json"), stem.with_suffix(".parquet")


def test_an_honest_archive_is_as_signed(home):
    assert named(home) == []


@pytest.mark.parametrize("which", [0, 1], ids=["manifest", "object"])
def test_a_damaged_file_is_named(home, which):
    path = files(home)[which]
    for way in WAYS:
        with damaged(path, way):
            if way is loop:
                # The storage does not even list such a folder.
                assert CliRunner().invoke(archive, ["verify"]).exit_code == 2
                continue
            faults = named(home)
            assert faults, way
            if which and way in (flip, delete, fifo, holes):
                copy, stored = str(home / "copy"), str(home / "archive")
                _, rows = run(home, app, "--log-dir", copy, "--archive", stored)
                (report,) = (row for row in rows if row["topic"] == TOPIC)
                assert report["faults"], way
                assert all(30 <= fault["first_offset"] < 60 for fault in report["faults"]), way


def test_a_range_that_no_object_holds_is_missing(home):
    manifest, stored = files(home)
    with damaged(manifest, delete), damaged(stored, delete):
        assert named(home) == [f"{TOPIC}-0 offset 30 to 59"]
    first = home / f"archive/{TOPIC}/0/{0:020}-000.parquet"
    with swapped(first, stored):
        _, rows = run(home)
        assert [bool(row["fault"]) for row in rows] == [True, True, False]


def test_a_manifest_of_any_content_is_named(home):
    path = files(home)[0]
    honest = json.loads(path.read_bytes())
    for name, told in honest.items():
        for value in (-1, 2**63, 10**400, 1.5, True, None, [], {}, "x"):
            # Texts are held against the records, see below.
            if not (isinstance(told, str) and isinstance(value, str)):
                with pytest.raises(DamagedArchive):
                    Manifest.parse(json.dumps({**honest, name: value}).encode())
        if name != "level":
            plausible = told + 1 if isinstance(told, int) else "0" * 64
            changed = json.dumps({**honest, name: plausible})
            with damaged(path, lambda at, changed=changed: at.write_text(changed)):
                assert named(home), name


HOSTILE = {
    "none": "SELECT * FROM r WHERE false",
    "columns": "SELECT record_offset FROM r",
    "types": "SELECT * REPLACE ('x' AS key) FROM r",
    "headers": "SELECT * REPLACE (1 AS headers) FROM r",
    "null headers": "SELECT * REPLACE (NULL::STRUCT(name VARCHAR, value BLOB)[] AS headers) FROM r",
    "null name": "SELECT * REPLACE "
    "([{'name': NULL, 'value': NULL}]::STRUCT(name VARCHAR, value BLOB)[] AS headers) FROM r",
    "null digest": "SELECT * REPLACE (NULL::BLOB AS digest) FROM r",
    "kind": "SELECT * REPLACE (255::UTINYINT AS kind) FROM r",
    "search": "SELECT * REPLACE ('hidden' AS event_id) FROM r",
    "negative": "SELECT * REPLACE (-record_offset AS record_offset) FROM r",
    "far": "SELECT * REPLACE (9223372036854775807 - record_offset AS record_offset) FROM r",
    "time": "SELECT * REPLACE (timestamp_ms + 1 AS timestamp_ms) FROM r",
    "shift": "SELECT * REPLACE (record_offset + 1 AS record_offset) FROM r",
    "doubled": "(FROM r LIMIT 15) UNION ALL (FROM r LIMIT 15)",
    "many": "SELECT r.* FROM r, range(2000)",
    "huge": "SELECT * REPLACE (repeat('a', 40_000_000)::BLOB AS value) FROM r",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_object_that_fits_its_manifest_is_named(home, tmp_path, kind):
    manifest, stored = files(home)
    fresh = tmp_path / "fresh.parquet"
    with duckdb.connect() as table:
        table.execute(f"CREATE VIEW r AS FROM read_parquet('{stored}')")
        table.execute(f"COPY ({HOSTILE[kind]}) TO '{fresh}' (FORMAT parquet, COMPRESSION zstd)")
    content = fresh.read_bytes()
    claim = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    changed = json.dumps({**json.loads(manifest.read_bytes()), **claim})
    with (
        damaged(stored, lambda path: path.write_bytes(content)),
        damaged(manifest, lambda path: path.write_text(changed)),
    ):
        assert named(home) == [f"{TOPIC}/0/{STEP:020}-000.parquet"]


def test_a_damaged_tree_accuses_no_object(home):
    with damaged(home / f"trees/{TOPIC}-0/0/tile/0/000.p/120", flip):
        status, rows = run(home)
    assert status == 1 and [row["object"] for row in rows] == [f"{TOPIC}-0"]
    assert "its objects are not compared" in rows[0]["fault"]
    assert "offset 60: tree" in rows[0]["fault"]


@pytest.fixture
def erasing(home, tmp_path, monkeypatch):
    """An archive whose second range lacks the content of offsets 35 and 36."""
    monkeypatch.setenv("LOOMOS_HOME", str(tmp_path))
    signer = load_signer(home / "credentials/loomdb", "loomos")
    for name in ("credentials", "trees", "copy", "archive"):
        (tmp_path / name).symlink_to(home / name)
    manifest = Manifest.parse(files(home)[0].read_bytes())
    depot = Depot(str(home / "archive"))
    records = [
        erased(one, b"") if one.offset in (35, 36) else one for one in decoded(files(home)[1])
    ]
    content = encoded(records, [Columns()] * STEP, 3)
    claim = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    newer = replace(manifest, generation=1, deleted=2, **claim)
    store(depot, newer, content)
    yield tmp_path, signer
    depot.remove(newer.name)
    depot.remove(newer.object)


def test_content_that_is_gone_is_missing_unless_the_log_allows_it(erasing):
    top, signer = erasing
    status, rows = run(top)
    (bad,) = (row for row in rows if row["fault"])
    assert status == 1
    assert "missing: the content of 2 records from offset 35 on is gone" in bad["fault"]
    for offsets in ([35], [35, 36]):
        place = top / f"case{len(offsets)}"
        sealed_log(place, "loomos.loomdb", judged_deletion((TOPIC, 0), offsets), signer)
        sealed_log(place, TOPIC, LOG, signer)
        words = ("--log-dir", str(place / "copy"), "--tiles", str(place / "trees"))
        status, rows = run(top, archive, *words)
        (second,) = (row for row in rows if f"{STEP:020}-001" in row["object"])
        assert status == int("missing" in second["fault"]) == (offsets == [35])
        (told,) = second["deleted"]
        assert (told["records"], told["policy"]) == (len(offsets), "rule *=1 days")
    # Without broker and copy the archive alone cannot tell: nobody is accused.
    found, rows = run(top, archive, "--tiles", str(place / "trees"))
    (second,) = (row for row in rows if f"{STEP:020}-001" in row["object"])
    assert found == 2 and not second["fault"] and "could not be read whole" in second["unknown"]
