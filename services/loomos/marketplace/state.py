"""What one organisation pays for, and what runs on its account now.

A run's meter:   granted ──▶ running ──▶ ended ──▶ (recorded: gone)
                                │
                                └─▶ exhausted (its budget is used up; still running until told)

Prices and budgets are the latest event of each; spending is kept for the current month only.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from loom.v1 import common_pb2
from loomos.marketplace.prices import cost_lines, total

__all__ = ["Budget", "Meter", "State", "due", "initial", "month_of", "organisation_of", "spent"]


@dataclass(slots=True)
class Meter:
    """One run that this organisation pays."""

    allocation_id: str
    job_id: str
    run: int
    project_id: str
    node_id: str
    resources: common_pb2.Resources
    gpu_models: list[str]
    budget_micro_dollars: int
    started_at_us: int = 0
    ended_at_us: int = 0
    exhausted: bool = False


@dataclass(slots=True)
class Budget:
    """A project's monthly budget."""

    budget_id: str
    monthly_micro_dollars: int
    reached: dict[str, int] = field(default_factory=dict)
    """Month → highest threshold told, percent."""


@dataclass(slots=True)
class State:
    """One organisation's account."""

    shard: str
    agreed: dict[str, int] = field(default_factory=dict)
    """sku → micro-dollars an hour."""
    price_ids: dict[str, str] = field(default_factory=dict)
    gpu_models: dict[str, str] = field(default_factory=dict)
    """GPU uuid → model, of every node that was heard of."""
    meters: dict[str, Meter] = field(default_factory=dict)
    """Allocation → meter, until its usage is recorded."""
    job_costs: dict[str, int] = field(default_factory=dict)
    """Recorded cost of jobs that have a budget of their own."""
    budgets: dict[str, Budget] = field(default_factory=dict)
    spending: dict[str, int] = field(default_factory=dict)
    """`<month> <project>` → micro-dollars recorded."""


def initial(shard: str) -> State:
    """An organisation that was not heard of yet."""
    return State(shard)


def organisation_of(project_id: str) -> str:
    """The organisation that a project's id begins with."""
    return project_id.partition(".")[0]


def spent(state: State, meter: Meter, at_us: int) -> int:
    """What a running job has cost by then, its recorded runs included."""
    seconds = max(0, at_us - meter.started_at_us) // 1_000_000
    lines = cost_lines(meter.resources, meter.gpu_models, seconds, state.agreed)
    return state.job_costs.get(meter.job_id, 0) + total(lines)


def due(state: State) -> int | None:
    """When the next running job will have used up its own budget."""
    moments = [
        moment
        for meter in state.meters.values()
        if (moment := exhausted_at_us(state, meter)) is not None
    ]
    return min(moments, default=None)


def exhausted_at_us(state: State, meter: Meter) -> int | None:
    """When this run reaches its job's budget, rounded up to a second; None if it never does."""
    if not (meter.budget_micro_dollars and meter.started_at_us) or meter.exhausted:
        return None
    if meter.ended_at_us:
        return None
    hour = total(cost_lines(meter.resources, meter.gpu_models, 3600, state.agreed))
    left = meter.budget_micro_dollars - state.job_costs.get(meter.job_id, 0)
    if hour == 0:
        return None
    seconds = max(0, -(-left * 3600 // hour)) + 1
    return meter.started_at_us + seconds * 1_000_000


def month_of(at_us: int) -> str:
    """The calendar month in UTC, `2026-11`."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    return f"{moment.year:04}-{moment.month:02}"
