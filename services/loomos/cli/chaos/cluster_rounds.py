"""The rounds of `loomos chaos cluster`: each fault once, then as the seed says."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from loomos.cli.chaos.cluster import cluster
from loomos.cli.chaos.cluster_faults import FAULTS
from loomos.cli.soak.story import Story

__all__ = ["run_cluster"]


async def run_cluster(
    folder: Path, seed: int, seconds: float, story: Story, only: Sequence[str]
) -> None:
    """Each fault once, then in the seed's order until time is up; raises Broken."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    async with cluster(folder, seed, lambda line: story.tell("note", line=line)) as made:
        _, in_sync = await made.state()
        story.tell("ready", brokers_in_sync=in_sync, min_insync=2)
        until = time.monotonic() + seconds
        names = list(only or FAULTS)
        first = list(names)
        while first or time.monotonic() < until:
            name = first.pop(0) if first else chance.choice(names)
            story.tell("fault", name=name)
            began = time.monotonic()
            async with made.loaded() as load:
                did = await FAULTS[name](made, load)
            counts = Counter(one.kind for one in load.outcomes.values())
            took = round(time.monotonic() - began, 1)
            story.tell("did", name=name, did=did, seconds=took, **counts)
        counts = Counter(one.kind for one in made.outcomes.values())
        story.tell("checked", commands=len(made.outcomes), rounds=made.rounds, **counts)
