"""Whatever happens to a file of a copy, `audit verify` ends, names its partition and no other."""

import json

import pytest
from damaging import WAYS, append, cut, damaged, delete, empty, flip, swapped
from segment_bytes import batches_of, judged, make_log, with_batch_times, write_segment
from typer.testing import CliRunner

from loom.log import segments, survey
from loom.log.notary import Notary
from loom.log.note import load_signer
from loom.log.verify import Kind, open_tree, verify_folder
from loomos.cli.audit import app

TOPIC = "loomos.scheduler"
LOG = with_batch_times(make_log(299))
FILES = (
    *("checkpoint", "tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1"),
    *("tile/entries/000", "tile/entries/001.p/44"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two signed partitions and a copy of their log."""
    top = tmp_path_factory.mktemp("home")
    signer = load_signer(top / "credentials/loomdb", "loomos")
    for partition, log in enumerate((LOG, LOG[:20])):
        notary = Notary(top / "trees", TOPIC, partition, signer)
        for record, verdict in judged(log):
            notary.append(record.offset, record.time_ms, verdict)
        notary.seal()
        write_segment(top / f"copy/{TOPIC}-{partition}", batches_of(log))
    return top


@pytest.fixture(autouse=True)
def quick(home, monkeypatch):
    monkeypatch.setenv("LOOMOS_HOME", str(home))
    monkeypatch.setattr(survey, "SEALING_S", 0)
    monkeypatch.setattr(segments, "SEGMENT_BYTES_MAX", 1 << 22)


def run(home, *more):
    result = CliRunner().invoke(app, ["verify", "--log-dir", str(home / "copy"), *more])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


def named(home):
    """The faults of the first partition; the other one must be intact."""
    result = run(home, "--json")
    reports = {one["partition"]: one for one in map(json.loads, result.stdout.splitlines())}
    assert reports[1]["faults"] == [] and reports[1]["records"] == 20
    faults = reports[0]["faults"]
    assert result.exit_code == (1 if faults else 0)
    assert all((one["topic"], one["partition"]) == (TOPIC, 0) for one in faults)
    return faults


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_tree_is_named(home, name):
    path = home / f"trees/{TOPIC}-0/0" / name
    for way in WAYS:
        with damaged(path, way):
            (fault,) = named(home)
            assert fault["kind"] == Kind.TREE, way
            # Who is damaged in one bundle does not accuse the other one.
            if "entries/000" in name or "0/000" in name:
                assert fault["last_offset"] < 256
            elif "001.p" in name:
                assert fault["first_offset"] >= 256


def test_a_damaged_segment_is_named(home):
    path = home / f"copy/{TOPIC}-0" / f"{0:020}.log"
    for way in WAYS:
        with damaged(path, way):
            faults = named(home)
            # Behind the last signed record nothing is judged.
            assert bool(faults) == (way is not append and way.__name__ != "sparse"), way


def test_no_cut_of_a_segment_accuses_what_is_left(home):
    path = home / f"copy/{TOPIC}-0" / f"{0:020}.log"
    batches = batches_of(LOG)
    whole, size = sum(map(len, batches[:40])), len(batches[40])
    for left in (whole, whole + 1, whole + 60, whole + 61, whole + size - 1):
        with damaged(path, cut, left):
            (fault,) = named(home)
            assert (fault["kind"], fault["first_offset"], fault["last_offset"]) == (
                Kind.TRUNCATED, 200, 299,
            )  # fmt: skip


def test_two_damaged_segments_are_each_named(home, tmp_path):
    batches = batches_of(LOG)
    for at in (0, 20, 40):
        write_segment(tmp_path / f"{TOPIC}-0", batches[at : at + 20], at * 5)
    for at in (0, 100):
        path = tmp_path / f"{TOPIC}-0" / f"{at:020}.log"
        path.write_bytes(path.read_bytes()[:30])
    verifier = load_signer(home / "credentials/loomdb", "loomos").verifier
    report = verify_folder(open_tree(home / f"trees/{TOPIC}-0/0", verifier), tmp_path)
    assert [fault[2:5] for fault in report.faults] == [(0, 99, "damaged"), (100, 199, "damaged")]


def test_files_that_changed_places_are_named(home):
    tree, copy = home / f"trees/{TOPIC}-0/0", home / "copy"
    with swapped(tree / "tile/entries/000", tree / "tile/entries/001.p/44"):
        assert named(home)[0]["kind"] == Kind.TREE
    with swapped(home / f"trees/{TOPIC}-0", home / f"trees/{TOPIC}-1"):
        result = run(home)
        assert result.exit_code == 2 and "not of" in result.output
    with swapped(copy / f"{TOPIC}-0", copy / f"{TOPIC}-1"):
        assert run(home).exit_code == 1


def test_a_broken_tree_hides_no_other_and_a_lost_one_is_told(home):
    folder = home / f"trees/{TOPIC}-0/0"
    with damaged(folder / "checkpoint", delete):
        result = run(home)
        assert f"{TOPIC}-0 offset 0 to the end: tree: " in result.output
        assert f"{TOPIC}-1" in result.output and result.exit_code == 1
        with damaged(folder / "signed.json", delete):
            result = run(home)
            assert f"{TOPIC}-0: no signed tree vouches for what is there" in result.output
    for name in (f"{TOPIC}-²", f"{TOPIC}-00", "x"):
        stray = home / "trees" / name / "0"
        stray.mkdir(parents=True)
        (stray / "checkpoint").write_bytes((folder / "checkpoint").read_bytes())
        result = run(home)
        assert result.exit_code == 1 and "is not named" in result.output
        (stray / "checkpoint").unlink()
        stray.rmdir()


def test_a_damaged_key_verifies_nothing(home):
    path = home / "credentials/loomdb/notary.pub"
    for way in WAYS:
        if way is not flip:
            with damaged(path, way):
                assert run(home).exit_code == 2, way


def test_a_notary_at_work_is_no_damage(home, tmp_path):
    """A tile fills up between the opening of the tree and its check."""
    signer = load_signer(home / "credentials/loomdb", "loomos")
    notary = Notary(tmp_path, TOPIC, 0, signer)
    records = judged(with_batch_times(make_log(259)))
    for record, verdict in records[:200]:
        notary.append(record.offset, record.time_ms, verdict)
    notary.seal()
    before = open_tree(notary.folder, signer.verifier)
    for record, verdict in records[200:]:
        notary.append(record.offset, record.time_ms, verdict)
    notary.seal()
    assert not (notary.folder / "tile/0/000.p").exists()
    write_segment(tmp_path / f"{TOPIC}-0", batches_of([record for record, _ in records]))
    report = verify_folder(before, tmp_path)
    assert (report.faults, report.size) == ((), 200)


def test_a_proof_of_any_form_is_judged(home, tmp_path):
    file = tmp_path / "a.tlog-proof"
    file.write_text("c2sp.org/tlog-proof@v1\n")
    for way in WAYS:
        if way is not empty:
            with damaged(file, way):
                result = CliRunner().invoke(app, ["check-proof", str(file)])
                assert result.exit_code == 2 and isinstance(result.exception, SystemExit), way
