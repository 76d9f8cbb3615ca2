"""A capped file keeps the first bytes and counts the others."""

import hashlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from loomos.node_agent.capped import Capped


@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(0, 100))
def test_every_byte_is_kept_or_counted(tmp_path_factory, pieces: list[bytes], limit: int) -> None:
    path = Path(tmp_path_factory.mktemp("capped")) / "log"
    file = Capped(str(path), limit, b"|cut|")
    for piece in pieces:
        file.add(piece)
    digest = file.close()
    kept, whole = path.read_bytes(), b"".join(pieces)
    assert digest == hashlib.sha256(kept).hexdigest()
    if len(whole) <= limit:
        assert (kept, file.dropped_bytes) == (whole, 0)
    else:
        assert kept == whole[:limit] + b"|cut|"
        assert file.dropped_bytes == len(whole) - limit


def test_without_a_mark_a_piece_is_kept_whole_or_not(tmp_path: Path) -> None:
    file = Capped(str(tmp_path / "lines"), 10, b"")
    for line in (b"12345\n", b"67890\n", b"1\n"):
        file.add(line)
    file.close()
    assert (tmp_path / "lines").read_bytes() == b"12345\n"
    assert file.dropped_bytes == 8
