"""Two claimants and rule 5's back-off, in time: does one of them come to serve, and stay?

Ticks, not seconds. A marker reaches the log in one tick; a refold takes as long as it takes.
1. Who is deposed waits until the claim over it has shown nothing for a random, doubling time.
2. An idle owner shows a heartbeat; a dead one shows nothing, and is followed.
"""

import random
from dataclasses import dataclass, field

__all__ = ["Claimant", "run"]

HEARTBEAT = 5
SHORTEST_WAIT = 12
"""The first guess of what a refold takes; doubling makes up for a wrong one."""


@dataclass(slots=True)
class Claimant:
    """One of those who want the partition."""

    claims_at: int
    """When it claims unless it hears something before."""
    serves_at: int = -1
    """When it begins to serve; -1 for one that is deposed."""
    deposed: int = 0
    claims: list[int] = field(default_factory=list)


def run(
    seed: int,
    ticks: int,
    refold: int,
    without: frozenset[str] = frozenset(),
    dies_at: int | None = None,
) -> list[Claimant]:
    """Let two claimants begin together; the first owner may die for good at `dies_at`."""
    chance = random.Random(seed)
    claimants = [Claimant(claims_at=chance.randrange(3)) for _ in range(2)]
    owner = dead = -1
    for now in range(ticks):
        if now == dies_at:
            dead = owner
        due = [
            index
            for index, claimant in enumerate(claimants)
            if index not in (owner, dead) and claimant.claims_at <= now
        ]
        if due:
            owner = chance.choice(due)  # a tie: the first marker wins
            rival = claimants[1 - owner]
            claimants[owner].claims.append(now)
            claimants[owner].serves_at = now + 1 + refold
            rival.serves_at = -1
            rival.deposed += 1
            rival.claims_at = now + _wait(rival, chance, without)
        elif owner not in (-1, dead) and _shows(claimants[owner], now, without):
            rival = claimants[1 - owner]
            rival.claims_at = now + _wait(rival, chance, without)
    return claimants


def _shows(owner: Claimant, now: int, without: frozenset[str]) -> bool:
    """A heartbeat; while it refolds an owner shows nothing."""
    serving = now >= owner.serves_at
    return serving and "heartbeat" not in without and (now - owner.serves_at) % HEARTBEAT == 0


def _wait(rival: Claimant, chance: random.Random, without: frozenset[str]) -> int:
    if "back_off" in without:
        return 1
    growth = 1 if "doubling" in without else 2 ** min(rival.deposed, 8)
    return SHORTEST_WAIT + chance.randrange(SHORTEST_WAIT * growth)
