"""Segment files against the signed tree: every kind of tampering is found and named."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_bytes import batches_of, judged, make_log, with_batch_times, with_crc, write_segment

from loom.log.notary import Notary
from loom.log.note import load_signer
from loom.log.segments import Damage, Stored, read_partition
from loom.log.verify import Kind, open_tree, verify_folder

TOPIC = "loomos.scheduler"
COMMANDS = 399


@pytest.fixture(scope="module", params=[0, 3], ids=["plain", "lz4"])
def batches(request):
    return batches_of(with_batch_times(make_log(COMMANDS)), compression=request.param)


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A signed tree of 400 records, offsets 0 to 399, five to a batch."""
    top = tmp_path_factory.mktemp("signed")
    signer = load_signer(top / "credentials", "loomos")
    notary = Notary(top / "trees", TOPIC, 0, signer)
    for record, verdict in judged(with_batch_times(make_log(COMMANDS))):
        notary.append(record.offset, record.time_ms, verdict)
    notary.seal()
    return notary.folder, signer.verifier


def check(signed, tmp_path, data):
    write_segment(tmp_path / f"{TOPIC}-0", data)
    return verify_folder(open_tree(*signed), tmp_path)


def found(report):
    return [(fault.kind, fault.first_offset, fault.last_offset) for fault in report.faults]


def test_an_honest_log_has_no_fault(signed, batches, tmp_path):
    report = check(signed, tmp_path, batches)
    assert report.faults == ()
    assert (report.size, report.records, report.unsigned) == (400, 400, 0)


def test_records_behind_the_signature_are_only_counted(signed, tmp_path):
    log = with_batch_times(make_log(COMMANDS))
    log += [record._replace(offset=record.offset + 400) for record in log[:10]]
    report = check(signed, tmp_path, batches_of(log))
    assert (report.faults, report.unsigned) == ((), 10)


def test_a_log_over_several_segments(signed, batches, tmp_path):
    write_segment(tmp_path / f"{TOPIC}-0", batches[40:], 200)
    assert check(signed, tmp_path, batches[:40]).faults == ()


def test_a_flipped_byte_is_named(signed, tmp_path):
    batches = batches_of(with_batch_times(make_log(COMMANDS)))
    at = batches[7].index(b"payload %08d" % 37)
    batches[7] = batches[7][:at] + b"P" + batches[7][at + 1 :]
    report = check(signed, tmp_path, batches)
    assert found(report) == [(Kind.DAMAGED, 35, 39), (Kind.CHANGED, 37, 37)] or found(report) == [
        (Kind.CHANGED, 37, 37),
        (Kind.DAMAGED, 35, 39),
    ]
    assert "fails its CRC32C" in " ".join(fault.detail for fault in report.faults)


def test_a_flipped_byte_in_a_compressed_batch_is_named(signed, batches, tmp_path):
    batches = list(batches)
    batches[7] = batches[7][:90] + bytes([batches[7][90] ^ 1]) + batches[7][91:]
    report = check(signed, tmp_path, batches)
    assert (Kind.DAMAGED, 35, 39) in found(report)
    assert all(35 <= fault.first_offset <= fault.last_offset <= 39 for fault in report.faults)


def test_a_flip_with_recomputed_crc_is_named(signed, tmp_path):
    batches = batches_of(with_batch_times(make_log(COMMANDS)))
    at = batches[7].index(b"payload %08d" % 37)
    batches[7] = with_crc(batches[7][:at] + b"P" + batches[7][at + 1 :])
    assert found(check(signed, tmp_path, batches)) == [(Kind.CHANGED, 37, 37)]


def test_a_changed_broker_time_is_named(signed, batches, tmp_path):
    batches = list(batches)
    data = bytearray(batches[7])
    struct.pack_into(">q", data, 35, 5)
    batches[7] = with_crc(data)
    assert found(check(signed, tmp_path, batches)) == [(Kind.CHANGED, 35, 39)]


def test_a_removed_batch_is_named(signed, batches, tmp_path):
    report = check(signed, tmp_path, batches[:7] + batches[8:])
    assert found(report) == [(Kind.REMOVED, 35, 39)]
    assert report.faults[0].text() == (
        "loomos.scheduler-0 offset 35 to 39: removed: 5 signed records are not there"
    )


def test_a_removed_batch_closed_up_is_named(signed, batches, tmp_path):
    """The offsets behind the gap are rewritten, which no CRC covers."""
    closed = [
        struct.pack(">q", struct.unpack_from(">q", data)[0] - 5) + data[8:] for data in batches[8:]
    ]
    report = check(signed, tmp_path, batches[:7] + closed)
    assert report.faults[0][2:5] == (35, 394, Kind.CHANGED)
    assert "signed for offset 40 to 399" in report.faults[0].detail
    assert found(report)[-1] == (Kind.TRUNCATED, 395, 399)


def test_two_swapped_batches_are_named(signed, batches, tmp_path):
    batches = list(batches)
    batches[7], batches[9] = batches[9], batches[7]
    report = check(signed, tmp_path, batches)
    assert found(report) == [(Kind.OUT_OF_ORDER, 35, 39), (Kind.OUT_OF_ORDER, 40, 44)]
    assert report.faults[0].detail == "stands behind offset 45 to 49"


def test_two_batches_swapped_with_their_offsets_are_named(signed, batches, tmp_path):
    batches = list(batches)
    batches[7], batches[9] = (
        batches[7][:8] + batches[9][8:],
        batches[9][:8] + batches[7][8:],
    )
    report = check(signed, tmp_path, batches)
    assert found(report) == [(Kind.CHANGED, 35, 39), (Kind.CHANGED, 45, 49)]
    assert "signed for offset 45 to 49" in report.faults[0].detail
    assert "signed for offset 35 to 39" in report.faults[1].detail


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_truncated_tail_is_named(signed, batches, tmp_path, cut):
    data = b"".join(batches)
    report = check(signed, tmp_path, [data[:-cut]])
    assert found(report) == [(Kind.TRUNCATED, 395, 399)]
    report = check(signed, tmp_path, batches[:-2])
    assert found(report) == [(Kind.TRUNCATED, 390, 399)]


def test_a_missing_partition_is_named(signed, tmp_path):
    report = verify_folder(open_tree(*signed), tmp_path)
    assert found(report) == [(Kind.TRUNCATED, 0, 399)]


def test_doubled_and_inserted_batches_are_named(signed, batches, tmp_path):
    report = check(signed, tmp_path, [*batches[:8], batches[7], *batches[8:]])
    assert found(report) == [(Kind.DOUBLED, 35, 39)]


def test_a_lost_frame_costs_only_its_batch(signed, batches, tmp_path):
    batches = list(batches)
    batches[7] = batches[7][:8] + b"\x00\x00\xff\xff" + batches[7][12:]
    assert found(check(signed, tmp_path, batches)) == [(Kind.DAMAGED, 35, 39)]


def test_a_changed_leaf_is_the_trees_fault(signed, batches, tmp_path):
    folder, _ = signed
    path = folder / "tile/entries/000"
    whole = path.read_bytes()
    path.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    try:
        report = check(signed, tmp_path, batches)
    finally:
        path.write_bytes(whole)
    assert [fault.kind for fault in report.faults] == [Kind.TREE]


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False))
def test_no_single_change_of_a_byte_goes_unseen(signed, batches, tmp_path_factory, chance):
    """Except in the bytes that carry nothing: the leader's epoch, which no reader looks at."""
    folder = tmp_path_factory.mktemp("flip")
    data = b"".join(batches)
    at = chance.randrange(len(data))
    start = max(place for place in starts(batches) if place <= at)
    flipped = data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    report = check(signed, folder, [flipped])
    if 12 <= at - start < 16:
        assert report.faults == ()
    else:
        number = starts(batches).index(start)
        named = range(number * 5, number * 5 + 5)
        assert any(
            fault.first_offset <= offset <= fault.last_offset
            for fault in report.faults
            for offset in named
        )


def starts(batches):
    places, at = [], 0
    for data in batches:
        places.append(at)
        at += len(data)
    return places


@settings(max_examples=100, deadline=None)
@given(st.randoms(use_true_random=False))
def test_garbage_is_read_to_its_end(batches, tmp_path_factory, chance):
    folder = tmp_path_factory.mktemp("garbage")
    data = bytearray(b"".join(batches[:20]))
    for _ in range(chance.randrange(1, 60)):
        at = chance.randrange(len(data))
        piece = chance.randbytes(chance.randrange(1, 40))
        data[at : at + chance.choice((0, len(piece)))] = piece
    write_segment(folder, [bytes(data)])
    for item in read_partition(folder):
        assert isinstance(item, Stored | Damage)


def test_a_compression_bomb_stays_within_bounds(tmp_path):
    records = make_log(1)
    records[1] = records[1]._replace(value=bytes(900_000))
    write_segment(tmp_path, batches_of(records, compression=3))
    values = [item.value for item in read_partition(tmp_path) if isinstance(item, Stored)]
    assert values[1] == bytes(900_000)


def test_random_bytes_are_one_damage(tmp_path):
    write_segment(tmp_path, [random.Random(3).randbytes(3_000_000)])
    assert [item.last_offset for item in read_partition(tmp_path)] == [-1]
