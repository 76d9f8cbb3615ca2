"""The digest of a record: lengths of all parts, then the parts, whatever the headers look like."""

import hashlib
import struct

import pytest

from loom.log.judge import digest

HEADERS = (
    [],
    [("loom", b"a"), ("ce", b"bb")],
    [("loom", b""), ("ce", b"")],
    [("loom", None), ("ce", b"bb")],
    [("ce", b"a"), ("loom", b"bb")],
    [("loom", b"a"), ("ce", b"bb"), ("x", b"")],
)


@pytest.mark.parametrize("headers", HEADERS)
@pytest.mark.parametrize("key", [None, b"", b"shard"])
@pytest.mark.parametrize("value", [None, b"", b"payload"])
def test_a_digest_covers_every_length_and_every_byte(key, headers, value):
    parts = [bytes((key is None, value is None)), key or b"", value or b""]
    for name, data in headers:
        parts += [name.encode(), data or b""]
    lengths = struct.pack(f">I{len(parts)}I", len(parts), *map(len, parts))
    assert digest(key, headers, value) == hashlib.sha256(lengths + b"".join(parts)).digest()


def test_an_absent_value_is_not_an_empty_one():
    assert digest(b"k", [], None) != digest(b"k", [], b"")
