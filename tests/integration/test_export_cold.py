"""An export spans what Kafka holds and what only the archive holds any more."""

from hashlib import sha256

import pytest
from test_archive import World
from tests.appending import append

from loom.log.export import read_range
from loom.log.reader import LogAway, read_all
from loom.log.shorten import shorten

pytestmark = [pytest.mark.bus]


async def all_frames(bus, topic, end, bytes_max):
    """Every record, page by page."""
    found, at = [], 0
    while at < end:
        frames, at = await read_range(bus, topic, 0, at, end, bytes_max)
        found += frames
    return found


async def test_an_export_reads_on_over_a_shortened_log(bus, topic, writer, note, tmp_path):
    world = World(bus, topic, tmp_path, str(tmp_path / "archive"))
    await append(writer, [note("a", n, f"text {n}", "more") for n in range(1, 61)])
    sealed = await world.sign()
    before = await read_all(world.bus, topic)
    hot = await all_frames(world.bus, topic, len(before), 4000)
    assert [frame.offset for frame in hot] == [record.offset for record in before]
    assert [sha256(one.stored).digest() for one in hot] == [r.verdict.digest for r in before]
    first = await world.pack(sealed, rows_max=50)
    await shorten(world.bus, topic, 0, first.next_offset)
    assert await all_frames(world.bus, topic, len(before), 4000) == hot
    world.bus.archive = ""
    with pytest.raises(LogAway, match="no archive is known"):
        await read_range(world.bus, topic, 0, 0, 10, 4000)
