"""Whatever happens to an export, the stranger's verifier ends, with a verdict and a place."""

import json

import pytest
from damaging import WAYS, append, damaged, delete, flip, in_time, swapped
from exporting import deletion, exported, sealed
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_bytes import judged, make_log

from loom.log.note import load_signer
from loomos.verify import loomos_verify

TOPIC = "loomos.scheduler"
LOG = f"{TOPIC}-3"
RECORDS = 300
FREE = ("notary.pub", "loomos_verify.py", "export.json")
"""Files that nothing signed speaks of: the key is given, `export.json` says what is there."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An export of 300 records, with a kept checkpoint and a permission to delete."""
    top = tmp_path_factory.mktemp("home")
    log = make_log(RECORDS - 1)
    exported(top, top / "export", TOPIC, 3, log, judged(log))
    signer = load_signer(top / "credentials", "loomos")
    _, (kept, _) = sealed(top / "again", TOPIC, 3, judged(log), signer, sizes=(200,))
    out = top / "export"
    (out / f"logs/{LOG}/checkpoints").mkdir()
    (out / f"logs/{LOG}/checkpoints/200").write_text(kept)
    record, proof = deletion(top / "other", signer, (TOPIC, 3), (9, 10))
    (out / "deletions").mkdir()
    (out / "deletions/a.record").write_bytes(record)
    (out / "deletions/a.tlog-proof").write_text(proof)
    return top


@pytest.fixture
def run(home, capsys, monkeypatch):
    """The verifier in this process: its exit status, what it wrote, and its complaints."""
    key = (home / "credentials/notary.pub").read_text()

    def verified(what=home / "export", *words):
        monkeypatch.setattr("sys.argv", ["loomos_verify", str(what), "--key", key, *words])
        with in_time():
            status = loomos_verify.main()
        said, complaints = capsys.readouterr()
        assert status in (0, 1, 2) and bool(complaints) >= (status == 2)
        return status, said, complaints

    return verified


def files(home):
    out = home / "export"
    return sorted(
        path for path in out.rglob("*") if path.is_file() and path.name not in FREE
    )  # fmt: skip


def test_an_honest_export_is_well(run):
    assert run()[0] == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_file_is_named(home, run, way):
    for path in files(home):
        with damaged(path, way):
            status, said, complaints = run()
            gone = not path.is_file()
            # A hash that its leaves give anyway may be left out; what is there must be right.
            needless = "tile/0" in str(path) or "tile/1" in str(path) or path.suffix == ".record"
            needless |= "checkpoints" in str(path) and way is delete
            assert status or (gone and needless), path
            assert status == 0 or LOG in said + complaints or "deletions" in str(path), path


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(("flip", "cut", "drop", "double")))
def test_any_change_of_a_file_is_named(home, chance, kind):
    path = chance.choice(files(home))
    whole = path.read_bytes()
    at = chance.randrange(len(whole))
    changed = {
        "flip": whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :],
        "cut": whole[:at],
        "drop": whole[:at] + whole[at + 1 :],
        "double": whole[: at + 1] + whole[at:],
    }[kind]
    key = loomos_verify.Key.read((home / "credentials/notary.pub").read_text())
    path.write_bytes(changed)
    try:
        with (
            pytest.raises(loomos_verify.Unusable) if path.parent.name == "deletions" else in_time()
        ):
            allowed = loomos_verify.allowed_in(home / "export", key)
            log = log_of(home, allowed)
            try:
                log.verify(key, [], 0, [])
            except loomos_verify.RUBBISH as error:
                assert path.name in str(error) or path.name in ("checkpoint", "records")
            else:
                assert log.findings, (path, at)
                # A byte that is dropped from or put beside equal ones changes what stands behind.
                pairs = enumerate(zip(whole, changed, strict=False))
                differs = next((n for n, (one, other) in pairs if one != other), len(changed))
                place = place_of(path, whole, differs) if differs < len(whole) else None
                spans = [(one.first_offset, one.last_offset) for one in log.findings]
                named = any(place is None or one <= place <= last for one, last in spans)
                assert named, (path, at, spans)
    finally:
        path.write_bytes(whole)


def log_of(home, allowed):
    about = {"first": 0, "end": RECORDS, "complete": True}
    return loomos_verify.Log(home / f"export/logs/{LOG}", about, allowed)


def place_of(path, whole, at):
    """An offset that must be among those that are named where this byte changed."""
    match path.parts[path.parts.index(LOG) + 1 :]:
        case ("tile", level, *rest):
            first = 256 if rest[0].startswith("001") else 0
            stride = {"entries": 2 + loomos_verify.LEAF.size, "0": 32, "1": 0}[level]
            return first + at // stride if stride else 255
        case ("checkpoints", _) | ("checkpoint",):
            # It says itself how far its log goes.
            return None
    offset, start = -1, 0
    while start <= at:
        offset += 1
        start += 20 + int.from_bytes(whole[start + 16 : start + 20], "big")
    return offset


def test_two_files_that_changed_places_are_named(home, run):
    log = home / f"export/logs/{LOG}"
    for one, other in (
        ("tile/entries/000", "tile/entries/001.p/44"),
        ("tile/0/000", "tile/0/001.p/44"),
        ("tile/1/000.p/1", "tile/0/000"),
        ("records", "checkpoint"),
        ("checkpoint", "checkpoints/200"),
    ):
        with swapped(log / one, log / other):
            assert run()[0] in (1, 2), (one, other)


@pytest.mark.parametrize(
    "about",
    [
        [], 5, None, {"logs": []}, {"format": 1, "logs": {}}, {"format": 2, "logs": {LOG: {}}},
        *({"format": 1, "logs": {LOG: {"first": 0, "end": RECORDS, "complete": True} | more}}
          for more in ({"end": 2**63}, {"end": -1}, {"first": -1}, {"first": 1e400}, {"end": "9"},
                       {"first": None}, {"end": []}, {"complete": "no"}, {"first": True})),
        *({"format": 1, "logs": {name: {"first": 0, "end": 0, "complete": True}}}
          for name in ("../..", "/", "x", "", "loomos.x-²", "a\x1b[2J-0", "\ud800-0", "a" * 300)),
    ],
)  # fmt: skip
def test_an_export_that_says_nonsense_of_itself_is_no_verdict(home, run, about):
    path = home / "export/export.json"
    with damaged(path, lambda at: at.write_text(json.dumps(about))):
        status, said, complaints = run()
        assert (status, said) == (2, "") and "\x1b" not in complaints


def test_an_export_of_nothing_says_so(home, run):
    about = {"format": 1, "logs": {LOG: {"first": 9, "end": 9, "complete": True}}}
    with damaged(home / "export/export.json", lambda at: at.write_text(json.dumps(about))):
        _, said, _ = run()
        assert "records: 0, scope: no records, time: none" in said


def test_one_log_that_cannot_be_read_costs_no_other_its_verdict(home, run):
    path, out = home / "export/export.json", home / "export"
    about = json.loads(path.read_text())
    about["logs"]["loomos.data-0"] = about["logs"][LOG]
    with damaged(path, lambda at: at.write_text(json.dumps(about))):
        status, said, complaints = run()
        assert status == 2 and f"{LOG}: leaves: {RECORDS}" in said
        assert "cannot be verified: loomos.data-0" in complaints
        with damaged(out / f"logs/{LOG}/records", flip):
            assert run()[0] == 1


@pytest.mark.parametrize("way", [one for one in WAYS if one not in (flip, append)])
def test_keys_proofs_and_reports_of_any_form_are_no_verdict(home, run, tmp_path, way):
    proof, report = tmp_path / "a.tlog-proof", tmp_path / "report.json"
    proof.write_text((home / "export/deletions/a.tlog-proof").read_text())
    report.write_text('{"checkpoints": {}}')
    manifest = tmp_path / "report.json.manifest"
    manifest.write_text("loomos report manifest v1\n{}\n\n— loomos AAAA\n")
    assert run(proof)[0] == 0
    for path, what in ((proof, proof), (report, report), (manifest, report)):
        with damaged(path, way):
            assert run(what)[0] == 2, path
    with damaged(proof, way):
        assert run(home / "export", "--checkpoint", str(proof))[0] == 2
        assert run(home / "export", "--witness", str(proof))[0] == 2
