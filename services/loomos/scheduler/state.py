"""What a scheduling round may know: jobs, who waits, the nodes as heard, limits and their use.

1. Changed by `evolve` only, in place; indexes keep every decision cheap with 100,000 jobs.
2. Waiting jobs stand in groups of equal needs and priority, each in order of submission.
3. A claim is a place that a job takes as this scheduler sees it: from its placement on, until the
   resource manager refuses or releases it.
4. `digest` is the sum of a hash per job and node: equal states have equal digests, however they
   came about, and an event costs one hash.

The life of a job stands at the head of `scheduler.proto`.
"""

from collections import deque
from dataclasses import dataclass, field

from google.protobuf.message import Message

from loom.v1 import common_pb2, resource_manager_pb2
from loom.v1 import scheduler_pb2 as pb

__all__ = [
    "COOLDOWN_US",
    "ENDED",
    "PRIORITIES",
    "WAITING",
    "Amounts",
    "Claim",
    "Content",
    "Job",
    "Need",
    "Node",
    "Project",
    "State",
    "Timer",
    "amounts_of",
    "due",
    "initial",
    "need_of",
    "node_of",
    "stale",
]

PRIORITIES = {
    pb.PRIORITY_CLASS_SCAVENGER: 0,
    pb.PRIORITY_CLASS_BATCH: 100,
    pb.PRIORITY_CLASS_LOW: 250,
    pb.PRIORITY_CLASS_NORMAL: 500,
    pb.PRIORITY_CLASS_HIGH: 750,
    pb.PRIORITY_CLASS_URGENT: 900,
    pb.PRIORITY_CLASS_CRITICAL: 1000,
}

WAITING = frozenset(
    (pb.JOB_STATUS_PENDING, pb.JOB_STATUS_QUEUED, pb.JOB_STATUS_PREEMPTED, pb.JOB_STATUS_MIGRATING)
)

ENDED = frozenset({pb.JOB_STATUS_COMPLETED, pb.JOB_STATUS_FAILED, pb.JOB_STATUS_CANCELLED})

COOLDOWN_US = 30_000_000
"""A job that resumed is left alone for so long, so that it gets somewhere."""

Amounts = tuple[int, int, int, int]
"""CPU (milli), memory (bytes), GPU (milli), storage (bytes)."""

Timer = tuple[int, str, str, int]
"""When (us), `limit` (a run's time is over) or `wake` (a round is wanted), job, run."""


@dataclass(slots=True, frozen=True)
class Need:
    """What a job asks of a node; equal for all jobs of a group."""

    amounts: Amounts
    gpus: int
    gpu_model: str
    gpu_memory_bytes_min: int
    node_selector: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Job:
    """A job; its spec is kept without the content of its inputs."""

    job_id: str
    project_id: str
    submitted_by: str
    submitted_at_us: int
    spec: pb.JobSpec
    need: Need
    priority: int
    group_id: str
    status: pb.JobStatus = pb.JOB_STATUS_PENDING
    run: int = 0
    node_id: str = ""
    allocation_id: str = ""
    admitted_at_us: int = 0
    started_at_us: int = 0
    runtime_us: int = 0
    """Time that the ended runs took, counted against max_runtime_seconds."""
    preemptions: int = 0
    retries: int = 0
    not_before_us: int = 0
    avoid_node_id: str = ""
    stop_reason: pb.StopReason = pb.STOP_REASON_UNSPECIFIED
    preemptor_job_id: str = ""
    stop_round_id: str = ""
    checkpoint: pb.CheckpointRef | None = None
    mark: int = 0
    """What it adds to the state's digest."""


@dataclass(slots=True)
class Claim:
    """A place that a run takes on a node."""

    job_id: str
    run: int
    node_id: str
    amounts: Amounts
    gpus: int
    gpu_uuids: tuple[str, ...] = ()
    allocation_id: str = ""
    leaving: bool = False


@dataclass(slots=True)
class Node:
    """A node as heard from the resource manager."""

    node_id: str
    hostname: str
    capacity: Amounts
    labels: dict[str, str]
    gpus: dict[str, tuple[str, int]]
    """uuid → (model, memory)."""
    ready: bool = False
    cordoned: bool = False
    cordoned_gpus: set[str] = field(default_factory=set)
    claims: dict[str, Claim] = field(default_factory=dict)
    """By job: a job has at most one place."""
    mark: int = 0


@dataclass(slots=True)
class Project:
    """What security said of a project."""

    classifications: frozenset[int]
    cleared: dict[int, set[str]] = field(default_factory=dict)
    """Classification → users to whom it was opened."""


@dataclass(slots=True)
class Content:
    """An input file's content, kept once for all open jobs that use it."""

    data: bytes
    uses: int = 0


@dataclass(slots=True)
class State:
    """One cluster's scheduling."""

    shard: str
    """The cluster; the shell sets it."""
    jobs: dict[str, Job] = field(default_factory=dict)
    groups: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """Group → its waiting jobs as (submitted_at_us, job_id), sorted."""
    fresh: dict[str, None] = field(default_factory=dict)
    """PENDING jobs in order of submission."""
    group_reasons: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Why each waiting group waits, as last told."""
    contents: dict[bytes, Content] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    inbox: deque[Message] = field(default_factory=deque)
    """Heard facts about allocations that no tick has settled yet."""
    timers: list[Timer] = field(default_factory=list)
    """A heap; its top is never stale."""
    dirty: bool = False
    """Something changed that a round could use."""
    round_at_us: int = 0
    inputs: dict[tuple[str, int], common_pb2.Position] = field(default_factory=dict)
    projects: dict[str, Project] = field(default_factory=dict)
    quotas: dict[str, dict[int, tuple[int, bool]]] = field(default_factory=dict)
    """User, project or organisation → quota kind → (limit, strict)."""
    open_jobs: dict[str, int] = field(default_factory=dict)
    """The same subjects → jobs that have not ended."""
    open_gpu_milli: dict[str, int] = field(default_factory=dict)
    """The same subjects → GPUs that those jobs ask for."""
    gpu_milli_seconds: dict[tuple[str, int], int] = field(default_factory=dict)
    """(subject, month) → GPU time of ended runs."""
    digest: int = 0


def initial(shard: str) -> State:
    """The state before the first event."""
    return State(shard=shard)


def due(state: State) -> int | None:
    """When the next tick is wanted: at once (0), at a time in microseconds, or not at all."""
    if state.inbox or state.dirty:
        return 0
    return state.timers[0][0] if state.timers else None


def stale(state: State, timer: Timer) -> bool:
    """True if a timer no longer matters."""
    at_us, kind, job_id, run = timer
    if kind == "wake":
        return at_us <= state.round_at_us
    job = state.jobs.get(job_id)
    return job is None or job.run != run or job.status != pb.JOB_STATUS_RUNNING


def amounts_of(resources: common_pb2.Resources) -> Amounts:
    """Resources as a tuple that a round can add and compare."""
    return (
        resources.cpu_milli,
        resources.memory_bytes,
        resources.gpu_milli,
        resources.storage_bytes,
    )


def need_of(spec: pb.JobSpec) -> Need:
    """What a job asks of a node."""
    return Need(
        amounts=amounts_of(spec.resources),
        gpus=spec.resources.gpu_milli // 1000,
        gpu_model=spec.gpu_model,
        gpu_memory_bytes_min=spec.gpu_memory_bytes_min,
        node_selector=tuple(sorted(spec.node_selector.items())),
    )


def node_of(event: resource_manager_pb2.NodeRegistered) -> Node:
    """A node as it registered."""
    return Node(
        node_id=event.node_id,
        hostname=event.hostname,
        capacity=amounts_of(event.capacity),
        labels=dict(event.labels),
        gpus={gpu.uuid: (gpu.model, gpu.memory_bytes) for gpu in event.gpus},
    )
