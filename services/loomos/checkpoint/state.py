"""What checkpoint knows of one project: the jobs that were heard of and what they left.

    heard (pending) → COMPLETED → VERIFYING | RESTORING → VERIFIED | CORRUPTED
                          └───────────┴──────────────────────┴─→ EXPIRED → DELETED (forgotten)

1. A job's run never goes down; a checkpoint is one run's and one content's.
2. A job that has ended and left nothing is forgotten; what is in memory is what may be decided on.
"""

import math
from dataclasses import dataclass, field
from enum import IntEnum

from loom.v1 import checkpoint_pb2 as pb
from loom.v1 import scheduler_pb2 as scheduler

__all__ = [
    "READING",
    "USABLE",
    "Checkpoint",
    "Job",
    "Pending",
    "Retention",
    "State",
    "Status",
    "best_of",
    "due",
    "find",
    "initial",
    "location",
    "needed",
    "usable",
]


class Status(IntEnum):
    """The states that are kept in memory; the numbers are the contract's."""

    COMPLETED = pb.CHECKPOINT_STATUS_COMPLETED
    VERIFYING = pb.CHECKPOINT_STATUS_VERIFYING
    VERIFIED = pb.CHECKPOINT_STATUS_VERIFIED
    RESTORING = pb.CHECKPOINT_STATUS_RESTORING
    EXPIRED = pb.CHECKPOINT_STATUS_EXPIRED
    CORRUPTED = pb.CHECKPOINT_STATUS_CORRUPTED


READING = frozenset({Status.VERIFYING, Status.RESTORING})
USABLE = frozenset({Status.COMPLETED, Status.VERIFIED, *READING})
BUILT_ON_PARENT = frozenset({pb.CHECKPOINT_TYPE_INCREMENTAL, pb.CHECKPOINT_TYPE_DIFFERENTIAL})


@dataclass(slots=True)
class Checkpoint:
    """One that was recorded and whose files are not known to be gone."""

    id: str
    number: int
    run: int
    sha256: bytes
    size_bytes: int
    type: int
    parent_id: str
    completed_at_us: int
    metrics: dict[str, float]
    status: Status = Status.COMPLETED
    corrupted: bool = False
    """Found so, and not found whole since."""
    protected: bool = False
    held_until_us: int = 0
    deletion_failed: bool = False


@dataclass(slots=True)
class Pending:
    """One that was heard of in its place and is not recorded yet."""

    ref: scheduler.CheckpointRef
    metrics: list[scheduler.JobMetric]
    completed_at_us: int


@dataclass(slots=True)
class Job:
    """What the scheduler said of a job, and what the job left."""

    run: int = 0
    """The highest that was heard: the generation."""
    ended: bool = False
    resume_sha256: bytes = b""
    """From where its next run would resume."""
    resumed_sha256: bytes = b""
    """From where the run that now is placed or running resumed."""
    metrics: dict[str, scheduler.JobMetric] = field(default_factory=dict)
    pending: dict[tuple[int, bytes], Pending] = field(default_factory=dict)
    """Run and digest → what was heard."""
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    """In the order of their numbers."""
    last_number: int = 0
    last_id: str = ""


@dataclass(slots=True)
class Retention:
    """How many checkpoints of each job are kept."""

    checkpoints_per_job_max: int = 5
    best_metric: str = ""
    best_order: int = pb.METRIC_ORDER_HIGHEST


@dataclass(slots=True)
class State:
    """One project, whose id is the shard."""

    shard: str
    retention: Retention = field(default_factory=Retention)
    jobs: dict[str, Job] = field(default_factory=dict)
    job_ids: dict[str, str] = field(default_factory=dict)
    """Checkpoint → its job."""
    unswept: dict[str, None] = field(default_factory=dict)
    """Jobs to which the retention must be applied anew, first come first."""


def initial(shard: str) -> State:
    """A project of which nothing was heard."""
    return State(shard)


def due(state: State) -> int | None:
    """A tick is due at once while jobs wait for the retention."""
    return 1 if state.unswept else None


def location(job_id: str, sha256: bytes) -> str:
    """Where a checkpoint lies in the artifact store: job and digest say it, no report does."""
    return f"{job_id}/{sha256.hex()}"


def find(state: State, checkpoint_id: str) -> tuple[str, Job, Checkpoint] | None:
    """A checkpoint with its job, or None."""
    job_id = state.job_ids.get(checkpoint_id)
    if job_id is None:
        return None
    job = state.jobs[job_id]
    return job_id, job, job.checkpoints[checkpoint_id]


def usable(job: Job) -> list[Checkpoint]:
    """The job's checkpoints from which a run could resume, oldest first."""
    return [one for one in job.checkpoints.values() if one.status in USABLE and not one.corrupted]


def best_of(checkpoints: list[Checkpoint], metric: str, order: int) -> Checkpoint | None:
    """The one with the best finite value of the metric; the newer of two equal ones."""
    sign = -1 if order == pb.METRIC_ORDER_LOWEST else 1
    measured = [
        (sign * value, one.number, one)
        for one in checkpoints
        if math.isfinite(value := one.metrics.get(metric, math.nan))
    ]
    return max(measured, key=lambda found: found[:2])[2] if measured else None


def needed(job: Job, one: Checkpoint, at_us: int) -> str:
    """For what a checkpoint must stay, whatever the policy or its owner says; "" for nothing."""
    if one.status in READING:
        return "it is being verified"
    if one.held_until_us > at_us:
        return "it is held for a restore"
    if not job.ended and one.sha256 == job.resume_sha256:
        return "its unfinished job resumes from it"
    if not job.ended and one.sha256 == job.resumed_sha256:
        return "a run of its job has resumed from it"
    whole = usable(job)
    if not job.ended and whole and whole[-1] is one:
        return "it is the last usable one of an unfinished job"
    if any(other.parent_id == one.id and other.type in BUILT_ON_PARENT for other in whole):
        return "a later checkpoint is built on it"
    return ""
