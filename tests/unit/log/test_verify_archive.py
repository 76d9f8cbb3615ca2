"""A copy of a log that Kafka shortened is whole only together with its archive."""

import pytest
from segment_bytes import batches_of, judged, make_log, with_batch_times, write_segment
from typer.testing import CliRunner

from loom.log.archive import Manifest
from loom.log.archiver import written
from loom.log.depot import Depot
from loom.log.judge import START, Judge
from loom.log.notary import Notary
from loom.log.note import load_signer
from loom.log.parquet import Archived, Columns
from loom.log.verify import open_trees
from loomos.cli.audit import app

TOPIC, COLD, LOG = "loomos.scheduler", 60, with_batch_times(make_log(119))


@pytest.fixture(params=["kafka forgot it", "kafka has some of it"])
def home(request, tmp_path, monkeypatch):
    """A signed log of 120 records; the first 60 are archived and gone from Kafka's copy."""
    monkeypatch.setenv("LOOMOS_HOME", str(tmp_path))
    signer = load_signer(tmp_path / "credentials/loomdb", "loomos")
    notary = Notary(tmp_path / "trees", TOPIC, 0, signer)
    for record, verdict in judged(LOG):
        notary.append(record.offset, record.time_ms, verdict)
    notary.seal()
    (sealed,) = open_trees(tmp_path / "trees", signer.verifier)
    judge, records = Judge(START), []
    for record in LOG[:COLD]:
        verdict = judge.admit(record.key, record.headers, record.value)
        records.append(
            Archived(
                *record[:4],
                list(record.headers),
                verdict.kind,
                0,
                verdict.stamp.epoch,
                verdict.digest,
            )
        )
    blank = Manifest(
        TOPIC, 0, 0, 0, COLD, COLD, 0, LOG[0].time_ms, LOG[COLD - 1].time_ms, START.text(),
        judge.base(COLD, LOG[COLD - 1].time_ms).text(), 0, 0, 0, "", "", 3, "", 0,
    )  # fmt: skip
    (tmp_path / "archive").mkdir()
    depot, columns = Depot(str(tmp_path / "archive")), [Columns()] * COLD
    written(depot, tmp_path / "cache", blank, records, columns, sealed)
    begin = COLD if request.param == "kafka forgot it" else COLD - 20
    write_segment(tmp_path / f"copy/{TOPIC}-0", batches_of(LOG[begin:]), begin)
    return tmp_path


def run(home, *arguments):
    words = ["verify", "--log-dir", home / "copy", *arguments]
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_beginning_is_read_from_the_archive_and_said_to_lie_there(home):
    result = run(home, "--archive", home / "archive")
    assert result.exit_code == 0, result.output
    assert "intact" in result.output and "records lie in the archive" in result.output


def test_without_the_archive_the_beginning_is_missing(home):
    result = run(home)
    assert result.exit_code == 1
    assert "removed" in result.output


def test_a_changed_object_is_named(home):
    (stored,) = (home / "archive").rglob("*.parquet")
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.chmod(0o600)
    stored.write_bytes(bytes(content))
    result = run(home, "--archive", home / "archive")
    assert result.exit_code == 1
    assert "its SHA-256 is" in result.output


def test_an_archive_goes_with_a_copy_of_the_log(home):
    result = CliRunner().invoke(app, ["verify", "--archive", str(home / "archive")])
    assert result.exit_code != 0
    assert run(home, "--archive", home / "nowhere").exit_code != 0
