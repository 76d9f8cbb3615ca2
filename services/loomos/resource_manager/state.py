"""The books: which node has what, and who holds it.

1. A node's `used` is the sum of its live allocations and never exceeds its capacity.
2. A GPU uuid is in at most one live allocation.
3. Only live allocations are kept; the runs that were granted are remembered by job, so that an
   older generation is known as such for ever.

The lives of nodes and allocations are drawn at the head of `resource_manager.proto`.
"""

from dataclasses import dataclass, field

from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as pb
from loom.v1 import scheduler_pb2 as jobs

__all__ = [
    "LEASE_SECONDS",
    "RELEASE_MARGIN_US",
    "Allocation",
    "Amounts",
    "Node",
    "State",
    "amounts_of",
    "due",
    "initial",
    "resources_of",
]

LEASE_SECONDS = 10
"""How long a node may be silent, where it does not say."""

RELEASE_MARGIN_US = 3_000_000
"""From a node's loss until its places are free: its agent has stopped all work by then."""

Amounts = tuple[int, int, int, int]
"""CPU (milli), memory (bytes), GPU (milli), storage (bytes)."""


@dataclass(slots=True)
class Allocation:
    """A place that a run holds."""

    allocation_id: str
    node_id: str
    job_id: str
    run: int
    project_id: str
    amounts: Amounts
    gpu_uuids: tuple[str, ...]
    grace_period_seconds: int
    survive_disconnect: bool
    granted_at_us: int
    started_at_us: int = 0
    status: pb.AllocationStatus = pb.ALLOCATION_STATUS_GRANTED
    stop_reason: jobs.StopReason = jobs.STOP_REASON_UNSPECIFIED


@dataclass(slots=True)
class Node:
    """A node and what is left of it."""

    registered: pb.NodeRegistered
    capacity: Amounts
    gpus: dict[str, pb.Gpu]
    session_id: str = ""
    lost: bool = False
    cordoned: bool = False
    draining: bool = False
    release_at_us: int = 0
    cordoned_gpus: set[str] = field(default_factory=set)
    used: Amounts = (0, 0, 0, 0)
    held_gpus: set[str] = field(default_factory=set)
    allocations: dict[str, Allocation] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """True if it takes new work."""
        return bool(self.session_id) and not (self.lost or self.cordoned or self.draining)


@dataclass(slots=True)
class State:
    """One cluster's books."""

    shard: str
    """The cluster; the shell sets it."""
    nodes: dict[str, Node] = field(default_factory=dict)
    allocations: dict[str, Allocation] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)
    """Job → its live allocation."""
    runs: dict[str, int] = field(default_factory=dict)
    """Job → the highest run that was granted."""


def initial(shard: str) -> State:
    """The state before the first event."""
    return State(shard=shard)


def due(state: State) -> int | None:
    """When the places of the next lost node may be given to others."""
    return min(
        (
            node.release_at_us
            for node in state.nodes.values()
            if node.lost and any(not one.survive_disconnect for one in node.allocations.values())
        ),
        default=None,
    )


def amounts_of(resources: common_pb2.Resources) -> Amounts:
    """Resources as a tuple that decisions add and compare."""
    return (
        resources.cpu_milli,
        resources.memory_bytes,
        resources.gpu_milli,
        resources.storage_bytes,
    )


def resources_of(amounts: Amounts) -> common_pb2.Resources:
    """The way back."""
    cpu_milli, memory_bytes, gpu_milli, storage_bytes = amounts
    return common_pb2.Resources(
        cpu_milli=cpu_milli,
        memory_bytes=memory_bytes,
        gpu_milli=gpu_milli,
        storage_bytes=storage_bytes,
    )
