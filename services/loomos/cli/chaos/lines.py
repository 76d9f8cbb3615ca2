"""Faults of lines: cut, one way only, flapping, slow; between all services and one store."""

import asyncio
import random

from loomos.cli.chaos.line import Line, Mode
from loomos.cli.chaos.world import RECOVER_SECONDS, World, for_a_while
from loomos.cli.soak.load import Load

__all__ = ["line_cut", "line_flaps", "line_one_way", "line_slow"]

ANSWERS = 15
CUT_SECONDS = (2.0, 10.0)
FLAPS = 12
FLAP_SECONDS = 0.6
SLOW_SECONDS = 8.0


def drawn(made: World, chance: random.Random) -> tuple[str, Line]:
    """One of the two lines."""
    lines = {"Kafka": made.kafka_line, "Postgres": made.postgres_line}
    name = chance.choice(sorted(lines))
    return name, lines[name]


async def line_cut(made: World, load: Load, chance: random.Random) -> str:
    """Every connection is reset and none is taken for a while."""
    name, line = drawn(made, chance)
    seconds = chance.uniform(*CUT_SECONDS)
    await for_a_while(line, Mode.CUT, seconds)
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"{name} away for {seconds:.1f} s"


async def line_one_way(made: World, load: Load, chance: random.Random) -> str:
    """Requests arrive and answers do not, or nothing arrives; then all of it does."""
    name, line = drawn(made, chance)
    seconds, mode = chance.uniform(*CUT_SECONDS), chance.choice([Mode.NO_ANSWERS, Mode.NO_REQUESTS])
    await for_a_while(line, mode, seconds)
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"{name}: {mode.value} for {seconds:.1f} s"


async def line_flaps(made: World, load: Load, chance: random.Random) -> str:
    """Cut and open again, a dozen times."""
    name, line = drawn(made, chance)
    for _ in range(FLAPS):
        await for_a_while(line, Mode.CUT, chance.random() * FLAP_SECONDS)
        await asyncio.sleep(chance.random() * FLAP_SECONDS)
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"{name} cut {FLAPS} times"


async def line_slow(made: World, load: Load, chance: random.Random) -> str:
    """Each piece waits 100 to 300 ms."""
    name, line = drawn(made, chance)
    await for_a_while(line, Mode.SLOW, SLOW_SECONDS)
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"{name} slow for {SLOW_SECONDS:.0f} s"
