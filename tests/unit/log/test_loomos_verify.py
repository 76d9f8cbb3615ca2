"""The stand-alone verifier, run as a stranger runs it: each attack is found and named."""

import json
import shutil
import subprocess
import sys
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from exporting import Local, deletion, exported, sealed
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_bytes import judged, make_log

from loom.log.cosign import Cosigner
from loom.log.export import Frame, frames_in, stored_bytes
from loom.log.judge import digest
from loom.log.merkle import inclusion_proof
from loom.log.note import Checkpoint, load_signer
from loom.log.proof import Proof
from loom.log.tiles import Tiles
from loomos.cli.audit_export import export
from loomos.verify import loomos_verify
from loomos.verify.loomos_verify import signed_by, tree_root

TOPIC = "loomos.scheduler"
LOG = f"{TOPIC}-3"
COMMANDS = 699


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """An honest export of 700 records; tests work on copies."""
    folder = tmp_path_factory.mktemp("honest")
    log = make_log(COMMANDS)
    exported(folder, folder / "export", TOPIC, 3, log, judged(log))
    return folder


@pytest.fixture
def out(honest, tmp_path):
    shutil.copytree(honest / "export", tmp_path / "export")
    return tmp_path / "export"


def run(what, *words):
    """The verifier in a process without site-packages, environment or LoomOS."""
    script = loomos_verify.__file__
    return subprocess.run(
        [sys.executable, "-I", "-S", script, str(what), *map(str, words)],
        capture_output=True, text=True, check=False, cwd="/",
    )  # fmt: skip


def findings(result):
    """(first offset, last offset, what) of each finding; the process must have failed for them."""
    rows = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    found = [(r["first_offset"], r["last_offset"], r["what"]) for r in rows if "what" in r]
    assert all(r["log"] == LOG for r in rows), result.stdout
    assert result.returncode == (1 if found else 0), result.stdout + result.stderr
    return found


def frames(out):
    return list(frames_in((out / f"logs/{LOG}/records").read_bytes()))


def rewrite(out, changed):
    (out / f"logs/{LOG}/records").write_bytes(b"".join(frame.pack() for frame in changed))


def test_an_honest_export_verifies(out):
    result = run(out)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{LOG}: leaves: 700, records: 700" in result.stdout
    assert "findings: 0" in result.stdout


def test_a_flipped_byte_is_named(out):
    found = frames(out)
    bent = bytearray(found[413].stored)
    bent[-1] ^= 1
    found[413] = found[413]._replace(stored=bytes(bent))
    rewrite(out, found)
    assert findings(run(out, "--json")) == [(413, 413, "flipped byte")]


def test_a_changed_time_is_named(out):
    found = frames(out)
    found[9] = found[9]._replace(time_ms=found[9].time_ms + 1)
    rewrite(out, found)
    assert findings(run(out, "--json")) == [(9, 9, "flipped byte")]


def test_removed_events_are_named(out):
    found = frames(out)
    rewrite(out, found[:100] + found[103:500] + found[501:])
    assert findings(run(out, "--json")) == [
        (100, 102, "removed event"),
        (500, 500, "removed event"),
    ]


def test_deleted_content_is_named(out):
    found = frames(out)
    found[9] = found[9]._replace(stored=b"")
    rewrite(out, found)
    assert findings(run(out, "--json")) == [(9, 9, "missing")]


def allow(honest, out, tmp_path, of=(TOPIC, 3), offsets=(9, 10), signer=None, **more):
    """Put an event that allows deletions into an export."""
    signer = signer or load_signer(honest / "credentials", "loomos")
    record, proof = deletion(tmp_path / "other", signer, of, offsets, **more)
    (out / "deletions").mkdir(exist_ok=True)
    (out / "deletions/a.record").write_bytes(record)
    (out / "deletions/a.tlog-proof").write_text(proof)


def without(out, *offsets):
    """Take the content of these records."""
    found = frames(out)
    for offset in offsets:
        found[offset] = found[offset]._replace(stored=b"")
    rewrite(out, found)


def test_content_that_a_policy_deleted_is_told_and_is_no_fault(honest, out, tmp_path):
    without(out, 9, 10)
    allow(honest, out, tmp_path)
    result = run(out)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "deleted_by_policy: 2" in result.stdout and "findings: 0" in result.stdout
    assert "the content of 2 records was deleted by policy 'rule *=1 days'" in result.stdout
    # The chain is judged over what is gone; what no policy names is missing.
    without(out, 9, 10, 11)
    assert findings(run(out, "--json")) == [(11, 11, "missing")]
    found = frames(out)
    rewrite(out, found[:9] + found[10:])
    assert (9, 9, "removed event") in findings(run(out, "--json"))


@pytest.mark.parametrize(
    "given", [{"of": (TOPIC, 4)}, {"of": ("loomos.data", 3)}, {"offsets": (8, 10)}]
)
def test_a_policy_allows_what_it_names_only(honest, out, tmp_path, given):
    without(out, 9)
    allow(honest, out, tmp_path, **given)
    assert findings(run(out, "--json")) == [(9, 9, "missing")]


def test_a_forged_permission_is_no_verdict(honest, out, tmp_path):
    without(out, 9)
    stranger = load_signer(tmp_path / "stranger", "loomos")
    allow(honest, out, tmp_path / "a", signer=stranger)
    assert run(out).returncode == 2
    # Signed, but in a log where users' services write.
    allow(honest, out, tmp_path / "b", topic="loomos.data")
    assert "no event of loomos.loomdb" in run(out).stderr
    allow(honest, out, tmp_path / "c")
    record = out / "deletions/a.record"
    honest_bytes = record.read_bytes()
    for place in (-1, 30, len(honest_bytes) // 2):
        bent = bytearray(honest_bytes)
        bent[place] ^= 1
        record.write_bytes(bytes(bent))
        assert "is not the record that its proof is of" in run(out).stderr
    record.write_bytes(honest_bytes)
    assert run(out).returncode == 0


def test_a_gap_behind_deleted_content_is_named(tmp_path):
    """Who holds the notary's key leaves out a record beside one that a policy deleted."""
    log = make_log(COMMANDS)
    verdicts = dict(judged(log))
    left = [record for record in log if record.offset != 10]
    signer = exported(
        tmp_path, tmp_path / "export", TOPIC, 3, left, [(r, verdicts[r]) for r in left]
    )
    found = frames(tmp_path / "export")
    found[9] = found[9]._replace(stored=b"")
    rewrite(tmp_path / "export", found)
    allow(tmp_path, tmp_path / "export", tmp_path, signer=signer)
    assert findings(run(tmp_path / "export", "--json")) == [(11, 11, "gap")]


def test_a_truncated_log_is_named(out):
    rewrite(out, frames(out)[:650])
    assert findings(run(out, "--json")) == [(650, 699, "truncated log")]
    with (out / f"logs/{LOG}/records").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 3)
    assert (649, 649, "truncated log") in findings(run(out, "--json"))


def test_a_reorder_is_named(out):
    found = frames(out)
    rewrite(out, [*found[:20], found[21], found[20], *found[22:]])
    assert findings(run(out, "--json")) == [(20, 20, "reordered")]
    # The records of two offsets changed places, offsets and times as they should be.
    swapped = list(found)
    swapped[30] = found[30]._replace(stored=found[31].stored)
    swapped[31] = found[31]._replace(stored=found[30].stored)
    rewrite(out, swapped)
    assert findings(run(out, "--json")) == [(30, 30, "reordered"), (31, 31, "reordered")]
    assert "offset 30: reordered: it holds what was signed for offset 31" in run(out).stdout


def test_an_inserted_record_is_named(out):
    found = frames(out)
    rewrite(out, [*found[:50], found[49], *found[50:], found[-1]._replace(offset=700)])
    assert findings(run(out, "--json")) == [(49, 49, "inserted"), (700, 700, "inserted")]


def test_a_forged_checkpoint_is_named(out):
    note = out / f"logs/{LOG}/checkpoint"
    honest = note.read_text()
    body, _, tail = honest.partition("\n\n")
    root = body.split("\n")[2]
    note.write_text(honest.replace(root, root[:-3] + ("A" if root[-3] != "A" else "B") + root[-2:]))
    assert {what for _, _, what in findings(run(out, "--json"))} == {"forged checkpoint"}
    note.write_text(f"{body}\n\n{tail[:20]}{'A' if tail[20] != 'A' else 'B'}{tail[21:]}")
    assert findings(run(out, "--json")) == [(699, 699, "forged checkpoint")]
    # Another log's honest checkpoint is no checkpoint of this one.
    note.write_text(honest)
    (out / "logs" / LOG).rename(out / f"logs/{TOPIC}-4")
    (out / "export.json").write_text((out / "export.json").read_text().replace(LOG, f"{TOPIC}-4"))
    assert run(out).returncode == 1
    assert f"not of loomos/{TOPIC}/4/" in run(out).stdout


def test_another_notary_is_not_believed(out, tmp_path):
    other = load_signer(tmp_path / "other", "loomos").verifier.text()
    assert findings(run(out, "--json", "--key", other)) == [(699, 699, "forged checkpoint")]


def test_a_flipped_byte_in_a_leaf_or_hash_is_named(out):
    bundle = out / f"logs/{LOG}/tile/entries/001"
    data = bytearray(bundle.read_bytes())
    data[107 * 4 + 100] ^= 1
    bundle.write_bytes(data)
    assert findings(run(out, "--json")) == [(260, 260, "flipped byte")]


def test_missing_leaves_are_named(out):
    (out / f"logs/{LOG}/tile/entries/001").unlink()
    assert findings(run(out, "--json")) == [(256, 256, "gap")]


def test_a_gap_is_named_though_the_notary_signed_it(tmp_path):
    """Who holds the notary's key leaves a record out of log and tree: the chain shows it."""
    log = make_log(COMMANDS)
    verdicts = dict(judged(log))
    left = [record for record in log if record.offset != 77]
    exported(tmp_path, tmp_path / "export", TOPIC, 3, left, [(r, verdicts[r]) for r in left])
    assert findings(run(tmp_path / "export", "--json")) == [(78, 78, "gap")]


def test_a_fork_is_named(tmp_path):
    """Two histories that part at offset 500, both signed by the notary."""
    log = make_log(COMMANDS)
    signer = load_signer(tmp_path / "credentials", "loomos")
    _, notes = sealed(tmp_path / "first", TOPIC, 3, judged(log), signer, sizes=(300, 600))
    other = [*log[:500], *make_log(COMMANDS - 40, claim=b"d" * 16)[500:]]
    exported(tmp_path, tmp_path / "export", TOPIC, 3, other, judged(other))
    kept = []
    for number, note in enumerate(notes):
        (tmp_path / f"kept{number}").write_text(note)
        kept += ["--checkpoint", tmp_path / f"kept{number}"]
    result = run(tmp_path / "export", "--json", *kept)
    # What was kept of the other history has 700 leaves; this one shows 660 only.
    assert findings(result) == [(300, 599, "fork"), (660, 660, "truncated log")]


def test_kept_checkpoints_of_the_same_history_agree(tmp_path):
    log = make_log(COMMANDS)
    signer = load_signer(tmp_path / "credentials", "loomos")
    sizes = (1, 255, 256, 257, 512, 600)
    _, notes = sealed(tmp_path / "first", TOPIC, 3, judged(log), signer, sizes=sizes)
    exported(tmp_path, tmp_path / "export", TOPIC, 3, log, judged(log))
    folder = tmp_path / f"export/logs/{LOG}/checkpoints"
    folder.mkdir()
    for number, note in enumerate(notes):
        (folder / str(number)).write_text(note)
    assert findings(run(tmp_path / "export", "--json")) == []
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(signer.sign(Checkpoint("loomos/loomos.security/0/0", 1, bytes(32))))
    result = run(tmp_path / "export", "--checkpoint", elsewhere)
    assert result.returncode == 1
    assert "removed log" in result.stdout


def test_a_range_of_time_verifies_without_the_rest(tmp_path):
    log = make_log(2999, void_every=7)
    from_ms, to_ms = log[1300].time_ms, log[1900].time_ms
    exported(
        tmp_path, tmp_path / "export", TOPIC, 3, log, judged(log), from_ms=from_ms, to_ms=to_ms
    )
    result = run(tmp_path / "export")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "offset 1300 to 1899" in result.stdout
    assert not (tmp_path / f"export/logs/{LOG}/tile/entries/000").exists()
    found = frames(tmp_path / "export")
    rewrite(tmp_path / "export", found[:7] + found[8:])
    assert findings(run(tmp_path / "export", "--json")) == [(1307, 1307, "removed event")]


def test_cosignatures_are_counted(tmp_path):
    log = make_log(20)
    signer = load_signer(tmp_path / "credentials", "loomos")
    notary, notes = sealed(tmp_path, TOPIC, 3, judged(log), signer)
    witness = Cosigner("witness.example/w1", Ed25519PrivateKey.generate())
    (notary.folder / "witnessed").write_text(notes[-1] + witness.cosign(notes[-1], 1_700_000_000))
    source = Local({LOG: (notary.folder, notary.size)}, {LOG: log})
    export(source, [LOG], tmp_path / "export", public_key=signer.verifier.text())
    words = ("--json", "--need", 1, "--witness", witness.public.text())
    assert findings(run(tmp_path / "export", *words)) == []
    stranger = Cosigner("witness.example/w1", Ed25519PrivateKey.generate()).public.text()
    words = ("--json", "--need", 1, "--witness", stranger)
    assert findings(run(tmp_path / "export", *words)) == [(20, 20, "not witnessed")]


def test_a_proof_file_verifies(tmp_path, honest):
    folder = honest / f"trees/{LOG}/0"
    tree = Tiles(folder, 700)
    path = inclusion_proof(413, 700, tree.node)
    note = (folder / "checkpoint").read_text()
    file = tmp_path / "a.tlog-proof"
    file.write_text(Proof(tree.entry(413), 413, tuple(path), note).text())
    key = (honest / "export/notary.pub").read_text().strip()
    result = run(file, "--key", key)
    assert result.returncode == 0, result.stderr
    assert "the event at offset 413" in result.stdout
    file.write_text(file.read_text().replace("index 413", "index 414"))
    assert run(file, "--key", key).returncode == 2
    assert run(file).returncode == 2


@pytest.mark.parametrize("name", ["export.json", "notary.pub", f"logs/{LOG}/checkpoint"])
def test_rubbish_is_no_verdict(out, name):
    (out / name).write_text("{nonsense")
    result = run(out)
    assert result.returncode == 2
    assert "cannot be verified" in result.stderr
    assert "Traceback" not in result.stderr


def test_stored_bytes_are_what_digests_are_taken_over():
    for key, value in ((None, None), (b"", b""), (b"k", b"v"), (None, b"v")):
        for headers in ((), (("loom", b"x"), ("ce", b""), ("é", b"y"))):
            stored = stored_bytes(key, headers, value)
            assert sha256(stored).digest() == digest(key, headers, value)
    frame = Frame(7, 8, b"stored")
    assert list(frames_in(frame.pack() * 2)) == [frame, frame]


@given(st.binary(max_size=80), st.integers(0, 63), st.integers(1, 255))
@settings(max_examples=25, deadline=None)
def test_signatures_are_judged_as_the_library_judges_them(message, place, flip):
    key = Ed25519PrivateKey.from_private_bytes(sha256(message).digest())
    public = key.public_key().public_bytes_raw()
    signature = key.sign(message)
    assert signed_by(public, message, signature)
    bent = bytearray(signature)
    bent[place] ^= flip
    assert not signed_by(public, message, bytes(bent))
    assert not signed_by(public, message + b"x", signature)


@given(st.integers(0, 40))
def test_roots_are_those_of_the_library(count):
    from loom.log.merkle import Frontier, leaf_hash

    frontier = Frontier()
    hashes = [leaf_hash(bytes([n])) for n in range(count)]
    for one in hashes:
        frontier.append(one)
    assert tree_root(hashes) == frontier.root()
