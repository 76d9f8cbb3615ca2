"""A bit flipped in a signed tree is named by the offsets whose leaf or hash it spoils."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_bytes import batches_of, judged, make_log, with_batch_times, write_segment

from loom.log.leaf import LEAF_BYTES
from loom.log.notary import Notary
from loom.log.note import InvalidNote, load_signer
from loom.log.tiles import DamagedTree
from loom.log.verify import Kind, open_tree, verify_folder

TOPIC = "loomos.scheduler"
RECORDS = 400
WIDTH = 256
FILES = {
    "entries/000": (0, WIDTH, LEAF_BYTES + 2),
    "entries/001.p/144": (WIDTH, RECORDS, LEAF_BYTES + 2),
    "0/000": (0, WIDTH, 32),
    "0/001.p/144": (WIDTH, RECORDS, 32),
    "1/000.p/1": (0, WIDTH, 0),
}
"""File → its first leaf, the one behind its last, and the bytes of each; 0: one hash over all."""


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A signed tree of 400 records with offsets 0 to 399, and their segment."""
    top = tmp_path_factory.mktemp("signed")
    signer = load_signer(top / "credentials", "loomos")
    notary = Notary(top / "trees", TOPIC, 0, signer)
    log = with_batch_times(make_log(RECORDS - 1))
    for record, verdict in judged(log):
        notary.append(record.offset, record.time_ms, verdict)
    notary.seal()
    write_segment(top / f"{TOPIC}-0", batches_of(log))
    return notary.folder, signer.verifier, top


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.booleans(), st.randoms(use_true_random=False))
def test_a_flip_in_a_tree_names_its_place(signed, name, newest, chance):
    folder, verifier, top = signed
    path = folder / "tile" / name
    whole = path.read_bytes()
    first, end, bytes_each = FILES[name]
    # No leaf stands behind the newest one to bound it.
    at = chance.randrange(len(whole) - bytes_each if newest and bytes_each else 0, len(whole))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
    try:
        report = verify_folder(open_tree(folder, verifier), top)
    finally:
        path.write_bytes(whole)
    (fault,) = report.faults
    assert (fault.kind, fault.topic, fault.partition) == (Kind.TREE, TOPIC, 0)
    leaf = first + at // bytes_each if bytes_each else first
    assert first <= fault.first_offset <= leaf <= fault.last_offset < max(end, leaf + WIDTH)
    if bytes_each == 32 or (bytes_each and at % bytes_each >= 2):
        assert fault.first_offset == leaf
        assert fault.last_offset == leaf or leaf == RECORDS - 1


def test_any_flip_in_a_checkpoint_is_found_and_names_its_tree(signed):
    folder, verifier, _ = signed
    path = folder / "checkpoint"
    whole = path.read_bytes()
    try:
        for at in range(8 * len(whole)):
            flipped = bytearray(whole)
            flipped[at // 8] ^= 1 << at % 8
            path.write_bytes(flipped)
            with pytest.raises((InvalidNote, DamagedTree), match=r"loomos\.scheduler-0/0"):
                open_tree(folder, verifier)
    finally:
        path.write_bytes(whole)
