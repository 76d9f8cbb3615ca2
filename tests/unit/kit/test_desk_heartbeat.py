"""A desk knows of its own heartbeats what one that folds them from the log knows."""

from types import SimpleNamespace
from typing import Any

from loom.decider import Position
from loom.kit.desk import Desk
from loom.log import envelope
from loomos.cli.bench.trivial import SERVICE


async def test_a_heartbeat_leaves_the_same_versions_and_stories_live_and_folded() -> None:
    bus: Any = SimpleNamespace(partitions=1)
    live, folded = Desk(SERVICE, bus, 0), Desk(SERVICE, bus, 0)
    for offset in range(2):
        [made], _ = live.heartbeat()
        place = Position(SERVICE.topic, 0, offset)
        await folded.fold(envelope.read(made.headers, made.value, made.key, place, 1))

    assert live.folder.versions == folded.folder.versions == {"partition:0": 2}
    assert live.folder.stories == folded.folder.stories
