"""Rules 1 to 8 hold in every small world and in long walks; no clause can be left out."""

import pytest
from tests.model import livelock
from tests.model.explore import explore, walk
from tests.model.scenario import CLAUSES, COVERED, LONG, SCENARIOS, WIDE

STATES_MAX = 250_000


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_state_of(name: str) -> None:
    found = explore(SCENARIOS[name], states_max=STATES_MAX)
    print(f"{name}: {found}")
    assert not found.violation, str(found)
    assert found.complete


@pytest.mark.parametrize("clause", CLAUSES)
def test_without_rule(clause: str) -> None:
    scenario = (SCENARIOS | WIDE)[CLAUSES[clause]]
    covering = {"chained_claims"} if clause in COVERED else set()
    found = explore(scenario, frozenset({clause} | covering), STATES_MAX)
    print(f"{clause}: {found}")
    assert found.violation, f"{clause} is not needed in {CLAUSES[clause]}: {found}"


@pytest.mark.parametrize("seed", range(3))
def test_walks(seed: int) -> None:
    found = walk(LONG, seed, steps_max=30_000)
    print(f"seed {seed}: {found}")
    assert not found.violation, str(found)


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("refold", [5, 80])
def test_two_claimants_settle(seed: int, refold: int) -> None:
    claimants = livelock.run(seed, 4_000, refold)
    assert any(claimant.serves_at >= 0 for claimant in claimants)
    assert all(claimed < 2_000 for claimant in claimants for claimed in claimant.claims)


@pytest.mark.parametrize("seed", range(50))
def test_a_dead_owner_is_followed(seed: int) -> None:
    claimants = livelock.run(seed, 4_000, 20, dies_at=2_000)
    assert any(claimed > 2_000 for claimant in claimants for claimed in claimant.claims)


@pytest.mark.parametrize("clause", ["back_off", "doubling", "heartbeat"])
def test_two_claimants_never_settle_without(clause: str) -> None:
    runs = [livelock.run(seed, 4_000, 80, frozenset({clause})) for seed in range(20)]
    claims = [claimed for run in runs for claimant in run for claimed in claimant.claims]
    assert any(claimed > 2_000 for claimed in claims)
