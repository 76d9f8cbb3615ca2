"""The notary: signs what is durable, resumes, and stops when the log contradicts it."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segment_bytes import judged, make_log

from loom.log.judge import START
from loom.log.leaf import LEAF_BYTES, unpack
from loom.log.merkle import consistency_proof, verify_consistency
from loom.log.notary import Contradiction, Notary, tree_folder
from loom.log.note import Checkpoint, InvalidNote, Signer, Verifier, load_signer, parse_checkpoint
from loom.log.tiles import DamagedTree, Tiles

TOPIC = "loomos.scheduler"


@pytest.fixture
def signer(tmp_path):
    return load_signer(tmp_path / "credentials", "loomos")


def feed(notary, log, start=None, stop=None):
    first = notary.resume.offset if start is None else start
    for record, verdict in judged(log):
        if record.offset >= first and (stop is None or record.offset < stop):
            notary.append(record.offset, record.time_ms, verdict)


def test_the_key_is_made_once_and_is_the_owners_alone(tmp_path):
    first = load_signer(tmp_path, "loomos")
    assert (tmp_path / "notary.key").stat().st_mode & 0o777 == 0o600
    assert load_signer(tmp_path, "loomos").verifier == first.verifier
    assert Verifier.parse((tmp_path / "notary.pub").read_text()) == first.verifier
    (tmp_path / "notary.key").chmod(0o640)
    with pytest.raises(InvalidNote, match="others can read it"):
        load_signer(tmp_path, "loomos")
    (tmp_path / "notary.key").chmod(0o600)
    (tmp_path / "notary.key").write_bytes(b"")
    with pytest.raises(InvalidNote, match="holds no private key"):
        load_signer(tmp_path, "loomos")


def test_a_note_is_what_the_key_signed(signer):
    note = signer.sign(Checkpoint("loomos/x/0/0", 7, bytes(32)))
    assert signer.verifier.open(note) == Checkpoint("loomos/x/0/0", 7, bytes(32))
    with pytest.raises(InvalidNote, match="does not fit"):
        signer.verifier.open(note.replace("\n7\n", "\n8\n"))


def test_another_key_does_not_open_a_note(signer, tmp_path):
    other = load_signer(tmp_path / "other", "loomos")
    with pytest.raises(InvalidNote, match="not signed by"):
        other.verifier.open(signer.sign(Checkpoint("loomos/x/0/0", 7, bytes(32))))


@given(st.text(max_size=200))
def test_hostile_notes_and_keys_are_refused(text):
    for parse in (Verifier.parse, Verifier("loomos", bytes(32)).open, parse_checkpoint):
        with pytest.raises(InvalidNote):
            parse(text)


def test_every_record_has_a_leaf_and_void_ones_are_marked(signer, tmp_path):
    log = make_log(40, void_every=4)
    notary = Notary(tmp_path, TOPIC, 0, signer)
    feed(notary, log)
    checkpoint = signer.verifier.open(notary.seal())
    assert checkpoint.size == len(log) == 51
    tree = Tiles(notary.folder, checkpoint.size)
    assert tree.root() == checkpoint.root
    leaves = [unpack(tree.entry(index)) for index in range(checkpoint.size)]
    assert [leaf.offset for leaf in leaves] == list(range(51))
    assert [leaf.kind for leaf in leaves[:6]] == [2, 1, 1, 1, 1, 0]
    assert len(leaves[0].pack()) == LEAF_BYTES


@pytest.mark.parametrize("void_every", [0, 1, 7])
def test_it_resumes_from_what_it_signed(signer, tmp_path, void_every):
    log = make_log(600, void_every=void_every)
    whole = Notary(tmp_path / "whole", TOPIC, 0, signer)
    feed(whole, log)
    expected = signer.verifier.open(whole.seal())
    previous = None
    for stop in (1, 3, 300, 301, 555, len(log)):
        notary = Notary(tmp_path / "parts", TOPIC, 0, signer)
        notary.check_end(len(log))
        feed(notary, log, stop=stop)
        note = notary.seal()
        assert note == notary.seal()
        checkpoint = signer.verifier.open(note)
        if previous:
            path = consistency_proof(
                previous.size, checkpoint.size, Tiles(notary.folder, checkpoint.size).node
            )
            assert verify_consistency(
                previous.size, checkpoint.size, path, previous.root, checkpoint.root
            )
        previous = checkpoint
        # Unsigned leaves die with the process and are read again.
        feed(Notary(tmp_path / "parts", TOPIC, 0, signer), log)
    assert previous == expected


def test_it_stops_when_the_log_goes_backwards(signer, tmp_path):
    log = make_log(50)
    notary = Notary(tmp_path, TOPIC, 0, signer)
    feed(notary, log)
    notary.seal()
    again = Notary(tmp_path, TOPIC, 0, signer)
    assert START.offset < again.resume.offset < len(log)
    with pytest.raises(Contradiction, match="scheduler-0: the log ends at offset 30"):
        again.check_end(30)
    with pytest.raises(Contradiction, match="offset 50 is not what was signed"):
        feed(again, make_log(50, claim=b"d" * 16))


def test_it_stops_on_offsets_out_of_order(signer, tmp_path):
    log = make_log(5)
    notary = Notary(tmp_path, TOPIC, 0, signer)
    feed(notary, log)
    with pytest.raises(Contradiction, match="offset 3 after offset 5"):
        feed(notary, log, start=3)


def test_it_does_not_sign_a_tree_that_was_changed_behind_it(signer, tmp_path):
    notary = Notary(tmp_path, TOPIC, 0, signer)
    feed(notary, make_log(50))
    notary.seal()
    tile = next((tree_folder(tmp_path, TOPIC, 0) / "tile/0").glob("000.p/*"))
    tile.write_bytes(os.urandom(32) + tile.read_bytes()[32:])
    with pytest.raises(Contradiction, match="another root"):
        Notary(tmp_path, TOPIC, 0, signer)


def test_a_broken_state_file_is_no_fresh_start(signer, tmp_path):
    notary = Notary(tmp_path, TOPIC, 0, signer)
    feed(notary, make_log(5))
    notary.seal()
    (notary.folder / "signed.json").write_text("{}")
    with pytest.raises(DamagedTree):
        Notary(tmp_path, TOPIC, 0, signer)


def test_a_signer_has_no_odd_name(signer):
    with pytest.raises(InvalidNote, match="neither spaces"):
        Signer("a b", signer._key)
