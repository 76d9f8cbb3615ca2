"""Makes judged logs and the segment bytes that a broker would keep of them."""

import struct
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from loom.log.judge import ZERO_DIGEST, Judge, Kind, Stamp, digest

LOG_APPEND_TIME = 0x08
HEADER_BYTES = 61


class Record(NamedTuple):
    offset: int
    time_ms: int
    key: bytes
    value: bytes
    headers: tuple


def make_log(commands, claim=b"c" * 16, void_every=0):
    """A marker and then commands of one record each; every `void_every`th is followed by a void."""
    records = []
    before = ZERO_DIGEST

    def put(headers, key, value):
        offset = len(records)
        records.append(Record(offset, 1_700_000_000_000 + offset // 5, key, value, headers))

    stamp = Stamp(Kind.MARKER, 0, 1, claim, 0, 1, 1, before)
    put((("loom", stamp.pack()),), b"", b"")
    before = sha256(digest(b"", records[0].headers, b"") + ZERO_DIGEST).digest()
    for n in range(1, commands + 1):
        stamp = Stamp(Kind.EVENT, 0, 1, claim, n, 1, 1, before)
        headers = (("loom", stamp.pack()), ("ce_type", b"job.submitted"))
        value = b"payload %08d" % n
        before = digest(b"local", headers, value)
        put(headers, b"local", value)
        if void_every and n % void_every == 0:
            put((("ce_type", b"forged"),), b"local", b"no stamp")
    return records


def judged(records):
    judge = Judge()
    return [(record, judge.admit(record.key, record.headers, record.value)) for record in records]


def batch_bytes(records, compression=0):
    """One record batch, with the base offset and the append time that a broker writes into it."""
    builder = DefaultRecordBatchBuilder(2, compression, 0, -1, -1, -1, 1 << 20)
    for index, record in enumerate(records):
        assert builder.append(index, record.time_ms, record.key, record.value, list(record.headers))
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, records[0].offset)
    return stamped(data, records[-1].time_ms)


def stamped(data, time_ms):
    (attributes,) = struct.unpack_from(">h", data, 21)
    struct.pack_into(">h", data, 21, attributes | LOG_APPEND_TIME)
    struct.pack_into(">q", data, 35, time_ms)
    return with_crc(data)


def with_crc(data):
    """The batch with the CRC that fits it."""
    data = bytearray(data)
    struct.pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
    return bytes(data)


def batches_of(records, size=5, compression=0):
    """The log cut into batches; the records of one batch share the broker's time."""
    return [
        batch_bytes(records[at : at + size], compression) for at in range(0, len(records), size)
    ]


def with_batch_times(log, size=5):
    """The log as a broker would time it: one append time for all records of a batch."""
    last = len(log) - 1
    return [
        record._replace(time_ms=log[min(at - at % size + size - 1, last)].time_ms)
        for at, record in enumerate(log)
    ]


def write_segment(folder: Path, batches, base_offset=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{base_offset:020}.log").write_bytes(b"".join(batches))
