"""Walks worlds: all of a small scenario, breadth first, or at random for as long as wanted."""

import random
import re
from collections import deque
from typing import NamedTuple

from tests.model.judging import Verdicts
from tests.model.log import Log
from tests.model.promises import at_rest, check
from tests.model.scenario import Scenario
from tests.model.steps import Step, steps
from tests.model.world import Setup, Violation, World, first_world

__all__ = ["Found", "explore", "walk"]

SELDOM = ("deadline", "crash", "cut", "lost")


class Found(NamedTuple):
    """What an exploration has seen."""

    states: int
    logs: int
    violation: str = ""
    trace: tuple[str, ...] = ()
    """The steps to the violation."""
    complete: bool = True
    """No state of the scenario was left out; never said of a walk."""

    def __str__(self) -> str:
        """For people: the counterexample step by step, or how much was seen."""
        if not self.violation:
            whole = "all" if self.complete else "some"
            return f"{whole} {self.states} states, {self.logs} logs: no violation"
        return f"{self.violation} (after {self.states} states):\n  " + "\n  ".join(self.trace)


def setup_of(scenario: Scenario, without: frozenset[str]) -> Setup:
    """A scenario with its log; clauses named in `without` are taken out."""
    strict = not (scenario.intruded or scenario.altered)
    return Setup(scenario, without, Log(Verdicts(without), strict=strict))


NONE: frozenset[str] = frozenset()


def explore(
    scenario: Scenario, without: frozenset[str] = frozenset(), states_max: int = 400_000
) -> Found:
    """Every state of the scenario, nearest first, up to the first violation."""
    setup = setup_of(scenario, without)
    start = first_world(scenario)
    parents: dict[World, tuple[World, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        world = queue.popleft()
        moved = False
        name = "at rest"
        try:
            for step in steps(setup, world):
                name = step.name
                after = step.take()
                moved = moved or (step.fair and after != world)
                if after in parents:
                    continue
                parents[after] = (world, name)
                check(setup, after)
                queue.append(after)
            if not moved:
                name = "at rest"
                at_rest(setup, world)
        except Violation as violation:
            trace = _told(setup, [*_trace(parents, world), name])
            return Found(len(parents), len(setup.log.nodes), str(violation), trace)
        if len(parents) >= states_max:
            return Found(len(parents), len(setup.log.nodes), complete=False)
    return Found(len(parents), len(setup.log.nodes))


def walk(
    scenario: Scenario, seed: int, steps_max: int, without: frozenset[str] = frozenset()
) -> Found:
    """Random walks from the beginning to rest, again and again, `steps_max` steps in all."""
    chance = random.Random(seed)
    setup = setup_of(scenario, without)
    taken = 0
    while taken < steps_max:
        world = first_world(scenario)
        trace: list[str] = []
        try:
            while possible := list(steps(setup, world)):
                step = _choose(chance, possible)
                trace.append(step.name)
                world = step.take()
                check(setup, world)
                taken += 1
            trace.append("at rest")
            at_rest(setup, world)
        except Violation as violation:
            return Found(taken, len(setup.log.nodes), str(violation), _told(setup, trace))
        if len(setup.log.nodes) > 200_000:
            setup = setup_of(scenario, without)
    return Found(taken, len(setup.log.nodes), complete=False)


def _choose(chance: random.Random, possible: list[Step]) -> Step:
    """Any step, but crashes and deadlines seldom, else no walk gets far."""
    weights = [1 if any(word in step.name for word in SELDOM) else 6 for step in possible]
    return chance.choices(possible, weights)[0]


def _trace(parents: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    names = []
    while found := parents[world]:
        world, name = found
        names.append(name)
    return names[::-1]


def _told(setup: Setup, names: list[str]) -> tuple[str, ...]:
    """A trace, followed by what stands behind the record numbers in it."""
    numbers = sorted({int(found) for name in names for found in re.findall(r"\d+(?=[,)])", name)})
    return (*names, *(f"{number} = {setup.record(number)}" for number in numbers))
