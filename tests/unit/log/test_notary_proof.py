"""Proofs that travel, and the command that checks a copy of the log without a broker."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segment_bytes import batches_of, judged, make_log, with_batch_times, with_crc, write_segment
from typer.testing import CliRunner

from loom.decider import Code, Rejected
from loom.log.leaf import unpack
from loom.log.merkle import verify_consistency
from loom.log.notary import Notary
from loom.log.note import load_signer
from loom.log.proof import InvalidProof, Proof
from loom.v1 import loomdb_pb2 as pb
from loomos.cli.audit import app
from loomos.loomdb.proof import Trees

TOPIC = "loomos.scheduler"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a sealed tree of 400 records and a copy of the log."""
    monkeypatch.setenv("LOOMOS_HOME", str(tmp_path))
    signer = load_signer(tmp_path / "credentials/loomdb", "loomos")
    notary = Notary(tmp_path / "trees", TOPIC, 0, signer)
    log = with_batch_times(make_log(399))
    for record, verdict in judged(log):
        notary.append(record.offset, record.time_ms, verdict)
    notary.seal()
    write_segment(tmp_path / f"copy/{TOPIC}-0", batches_of(log, compression=3))
    return tmp_path


@pytest.fixture
def trees(home):
    return Trees(home / "trees", home / "credentials/loomdb/notary.pub")


def proof_of(trees, offset):
    request = pb.GetProofRequest(organisation_id="platform", topic=TOPIC, offset=offset)
    found = trees.inclusion(request)
    return Proof(found.leaf, found.index, tuple(found.path), found.checkpoint)


def test_a_proof_travels_and_holds(home, trees):
    verifier = load_signer(home / "credentials/loomdb", "loomos").verifier
    for offset in (0, 1, 255, 256, 399):
        proof = Proof.parse(proof_of(trees, offset).text())
        leaf, checkpoint = proof.verify(verifier)
        assert (leaf.offset, checkpoint.size) == (offset, 400)
    bent = Proof(proof.leaf[:-1] + b"x", proof.index, proof.path, proof.checkpoint)
    with pytest.raises(InvalidProof, match="do not lead from leaf 399"):
        bent.verify(verifier)


@given(st.text(max_size=300))
def test_hostile_proofs_are_refused(text):
    for content in (text, f"c2sp.org/tlog-proof@v1\nextra \nindex {text}"):
        with pytest.raises(InvalidProof):
            Proof.parse(content)


def test_unsigned_and_unknown_records_have_no_proof(trees):
    for topic, offset in ((TOPIC, 400), ("loomos.data", 0)):
        with pytest.raises(Rejected) as refused:
            trees.inclusion(pb.GetProofRequest(topic=topic, offset=offset))
        assert refused.value.code == Code.NOT_FOUND


def test_consistency_with_an_earlier_checkpoint_is_proved(trees):
    found = trees.consistency(pb.CheckConsistencyRequest(topic=TOPIC, size=100))
    assert verify_consistency(100, 400, found.path, found.old_root, found.new_root)
    latest = trees.checkpoint(pb.GetCheckpointRequest(topic=TOPIC))
    assert (latest.size, latest.root) == (found.new_size, found.new_root)
    with pytest.raises(Rejected, match="only 400 signed leaves"):
        trees.consistency(pb.CheckConsistencyRequest(topic=TOPIC, size=401))


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_passes_an_honest_copy(home):
    result = run("verify", "--log-dir", home / "copy")
    assert result.exit_code == 0, result.output
    assert "intact" in result.output


def test_the_command_names_what_was_changed(home):
    batches = batches_of(with_batch_times(make_log(399)))
    at = batches[7].index(b"payload %08d" % 37)
    batches[7] = with_crc(batches[7][:at] + b"P" + batches[7][at + 1 :])
    batches.pop(20)
    write_segment(home / f"copy/{TOPIC}-0", batches)
    key = home / "credentials/loomdb/notary.pub"
    result = run(
        "verify", "--log-dir", home / "copy", "--tiles", home / "trees", "--key", key, "--json"
    )
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [(fault["kind"], fault["first_offset"]) for fault in report["faults"]] == [
        ("changed", 37),
        ("removed", 100),
    ]
    assert "offset 100 to 104: removed" in run("verify", "--log-dir", home / "copy").output


def test_the_command_says_what_is_missing(home, tmp_path_factory):
    other = load_signer(tmp_path_factory.mktemp("other"), "loomos").verifier.text()
    for arguments in (
        ("--key", "nonsense"),
        ("--key", other),
        ("--log-dir", home / "nowhere"),
        ("--tiles", home / "nowhere"),
        (),
    ):
        assert run("verify", *arguments).exit_code == 2


def test_the_command_checks_a_proof_file(home, trees):
    file = home / "a.tlog-proof"
    file.write_text(proof_of(trees, 37).text())
    result = run("check-proof", file)
    assert result.exit_code == 0
    assert "offset 37" in result.output.replace("\n", " ")
    file.write_text(file.read_text().replace("index 37", "index 38"))
    assert run("check-proof", file).exit_code == 2


def test_void_leaves_are_proved_as_void(home):
    signer = load_signer(home / "credentials/loomdb", "loomos")
    notary = Notary(home / "trees", TOPIC, 1, signer)
    for record, verdict in judged(make_log(3, void_every=3)):
        notary.append(record.offset, record.time_ms, verdict)
    notary.seal()
    trees = Trees(home / "trees", home / "credentials/loomdb/notary.pub")
    found = trees.inclusion(pb.GetProofRequest(topic=TOPIC, partition=1, offset=4))
    assert unpack(found.leaf).kind == 0
