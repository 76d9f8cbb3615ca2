"""What a small world may do: its writers, its commands, how often each fault may happen.

Every clause of rules 1 to 8 has a name here, and the scenario that needs it.
"""

from typing import NamedTuple

__all__ = ["CLAUSES", "COVERED", "LONG", "SCENARIOS", "WIDE", "Scenario"]


class Scenario(NamedTuple):
    """Bounds of one exploration."""

    writers: int = 2
    commands: tuple[str, ...] = ("a", "b")
    """`a` leaves two records, `r` wants to be the first, `x` is too large; `a!` reuses a's id."""
    tries: int = 2
    claims: int = 2
    doubled: int = 0
    lost: int = 0
    crashes: int = 0
    forged: int = 0
    intruded: int = 0
    """Records forged with everything right: only access rules keep them out."""
    cuts: int = 0
    """How often the log may lose its tail while everything is stopped, and grow again."""
    altered: int = 0
    """How often it may then get a lost record back with other bytes."""
    wiped: int = 0
    """How often the table of leases may be wiped or restored older."""
    undecodable: str = ""
    """The command whose events an older reader cannot decode."""
    queries: bool = False
    bases: bool = False


SCENARIOS = {
    "lossy": Scenario(writers=1, commands=("a", "b"), tries=1, lost=1, doubled=1),
    "chain": Scenario(writers=1, claims=1, commands=("b", "c", "d"), lost=1, tries=1),
    "failover": Scenario(commands=("b", "r"), lost=1),
    "idle": Scenario(commands=("b",), tries=1),
    "doubled": Scenario(commands=("b",), doubled=1, wiped=1),
    "three": Scenario(writers=3, claims=3, commands=("b",), tries=1),
    "halves": Scenario(commands=("a",), lost=1, crashes=1),
    "forger": Scenario(commands=("b",), forged=1, tries=1),
    "intruder": Scenario(writers=1, claims=1, commands=("b",), intruded=1, tries=1),
    "answers": Scenario(commands=("b", "b!"), lost=1, queries=True),
    "upgrade": Scenario(writers=1, claims=1, commands=("b", "c"), undecodable="b"),
    "sizes": Scenario(writers=1, claims=1, commands=("x", "b"), tries=1),
    "regrown": Scenario(commands=("b", "c"), tries=1, cuts=1),
    "copied": Scenario(claims=2, commands=("b",), tries=1, doubled=1, cuts=1, bases=True),
    "restored": Scenario(writers=1, claims=1, commands=("b",), cuts=1, altered=1, bases=True),
    "resent": Scenario(commands=("b", "c"), tries=1, doubled=1, cuts=1),
    "snapshots": Scenario(writers=1, claims=1, commands=("a",), bases=True),
}
"""Small enough to be walked whole by every run of the tests."""

WIDE = {
    "reclaimed": Scenario(claims=3, commands=("b", "c"), tries=1, cuts=1),
    "sent again": Scenario(commands=("a", "b"), lost=1, doubled=1, crashes=1),
    "three, doubled": Scenario(writers=3, claims=3, commands=("b",), crashes=1, doubled=1),
    "forged and lost": Scenario(commands=("b", "r"), tries=1, forged=2, lost=1),
}
"""Walked whole by the command."""

LONG = Scenario(
    writers=3, commands=("a", "b", "r", "c", "b!", "x"), tries=4, claims=8, doubled=6, lost=4,
    crashes=3, forged=4, wiped=2, queries=True, bases=True, cuts=1,
)  # fmt: skip
"""Too large to be walked whole: for random walks."""

CLAUSES = {
    # rules 1 and 2: which records count
    "marker_epoch": "forger",
    "record_epoch": "forger",
    "record_claim": "forger",
    "record_number": "forger",
    "record_digest": "forger",
    "chained_claims": "resent",
    "undecodable_stops": "upgrade",
    # rule 3 and the claim: what is answered, and when
    "fresh_claim": "reclaimed",
    "epoch_from_log": "doubled",
    "read_to_marker": "failover",
    "read_back": "failover",
    "read_back_valid": "lossy",
    "match_digest": "intruder",
    "other_valid_is_doubt": "intruder",
    "copy_ignored": "doubled",
    "own_void_is_doubt": "chain",
    "deadline": "lossy",
    "number_never_reused": "lossy",
    "idle_reads_on": "idle",
    # rule 5: doubt
    "deposed_stops": "idle",
    "refold": "failover",
    # rule 6: batches
    "one_batch": "halves",
    "size_before_evolve": "sizes",
    # rule 7: speculative state
    "index_confirmed": "failover",
    "conflict_confirmed": "answers",
    "query_confirmed": "answers",
    "refusal_recorded": "failover",
    # rule 8: bases
    "base_checked": "copied",
    "base_time": "copied",
    "base_digest": "restored",
    "base_boundary": "snapshots",
    "loss_noticed": "regrown",
}
"""Each clause, and the scenario in which the world breaks without it."""

COVERED = frozenset({"fresh_claim", "read_to_marker"})
"""Clauses that the chain through all claims covers: the world breaks only without both."""
