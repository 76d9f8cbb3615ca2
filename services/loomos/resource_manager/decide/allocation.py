"""Who holds what: places granted, given back, and what their runs report.

1. A grant that would exceed what a node has left, or needs a GPU that is held or cordoned, is
   refused; grants of one command see the ones before them.
2. A job holds at most one place, and a run is granted only if it is newer than all before it.
3. A report counts only for the run that holds the allocation that it names.
4. A place is free when its run has ended, or its node was given up; never because somebody asked.
"""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import resource_manager_pb2 as pb
from loom.v1 import scheduler_pb2 as jobs
from loomos.resource_manager.state import Allocation, Node, State, amounts_of, resources_of

__all__ = [
    "checkpointed",
    "finished",
    "grant",
    "progressed",
    "release",
    "release_requested",
    "released",
    "started",
]

Refusal = tuple[pb.RefusalReason, str]


class Left:
    """What nodes have left while the grants of one command are decided."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._free: dict[str, list[int]] = {}
        self._taken: dict[str, set[str]] = {}
        self._jobs: set[str] = set()

    def take(self, one: pb.Grant) -> list[str] | Refusal:
        """The GPUs that a grant gets, or why it is refused."""
        refusal = self._unfit(one)
        if refusal is not None:
            return refusal
        node = self._state.nodes[one.node_id]
        need = amounts_of(one.run.spec.resources)
        free = self._free.setdefault(one.node_id, left_of(node))
        short = [
            f"{name} short by {want - have}"
            for name, have, want in zip(AMOUNT_NAMES, free, need, strict=True)
            if want > have
        ]
        if short:
            return pb.REFUSAL_REASON_NO_ROOM, ", ".join(short)
        taken = self._taken.setdefault(one.node_id, set(node.held_gpus))
        wanted = one.run.spec.resources.gpu_milli // 1000
        chosen = choose(node, taken, one.run.spec)[:wanted]
        if len(chosen) < wanted:
            told = f"{wanted} GPUs wanted, {len(chosen)} free, healthy ones match"
            return pb.REFUSAL_REASON_NO_GPU, told
        for index, amount in enumerate(need):
            free[index] -= amount
        taken.update(chosen)
        self._jobs.add(one.run.job_id)
        return chosen

    def _unfit(self, one: pb.Grant) -> Refusal | None:
        state, run = self._state, one.run
        node = state.nodes.get(one.node_id)
        if node is None:
            return pb.REFUSAL_REASON_UNKNOWN_NODE, f"no node {one.node_id}"
        highest = state.runs.get(run.job_id, 0)
        if run.run <= highest:
            told = f"run {run.run} is not newer than run {highest}"
            return pb.REFUSAL_REASON_OLD_RUN, told
        if run.job_id in state.holders or run.job_id in self._jobs:
            return pb.REFUSAL_REASON_RUN_HELD, "an earlier run of the job still holds a place"
        if not node.ready:
            return pb.REFUSAL_REASON_NODE_NOT_READY, f"{one.node_id} takes nothing new"
        return None


AMOUNT_NAMES = ("cpu_milli", "memory_bytes", "gpu_milli", "storage_bytes")


def grant(command: pb.GrantAllocationsRequest, state: State, context: Context) -> list[Message]:
    """Each place is granted or refused on its own, in the order given."""
    left = Left(state)
    events: list[Message] = []
    for index, one in enumerate(command.grants):
        taken = left.take(one)
        event = refused(one, *taken) if isinstance(taken, tuple) else granted(one, taken)
        event.allocation_id = context.new_id("allocation", index)
        event.at_us = context.at_us
        if isinstance(event, pb.AllocationGranted):
            event.cluster_id, event.round_id = state.shard, command.round_id
        events.append(event)
    return events


def refused(one: pb.Grant, reason: pb.RefusalReason, detail: str) -> pb.AllocationRefused:
    """A place that was not given, and why."""
    return pb.AllocationRefused(
        node_id=one.node_id,
        job_id=one.run.job_id,
        run=one.run.run,
        reason=reason,
        detail=detail,
        project_id=one.run.project_id,
    )


def granted(one: pb.Grant, gpu_uuids: list[str]) -> pb.AllocationGranted:
    """A place that was given."""
    return pb.AllocationGranted(node_id=one.node_id, run=one.run, gpu_uuids=gpu_uuids)


def left_of(node: Node) -> list[int]:
    """What a node has left."""
    return [have - used for have, used in zip(node.capacity, node.used, strict=True)]


def choose(node: Node, taken: set[str], spec: jobs.JobSpec) -> list[str]:
    """The GPUs that would do, the smallest first."""
    matching = [
        gpu
        for gpu in node.gpus.values()
        if gpu.uuid not in taken
        and gpu.uuid not in node.cordoned_gpus
        and gpu.memory_bytes >= spec.gpu_memory_bytes_min
        and spec.gpu_model in ("", gpu.model)
    ]
    matching.sort(key=lambda gpu: (gpu.memory_bytes, gpu.model, gpu.index, gpu.uuid))
    return [gpu.uuid for gpu in matching]


def release(command: pb.ReleaseAllocationRequest, state: State, context: Context) -> list[Message]:
    """The run is told to stop; one that has ended or was told the same changes nothing."""
    allocation = state.allocations.get(command.allocation_id)
    if allocation is None or allocation.stop_reason == command.reason:
        return []
    event = release_requested(allocation, command.reason, context)
    event.grace_period_seconds = command.grace_period_seconds
    event.preemptor_job_id = command.preemptor_job_id
    return [event]


def release_requested(
    allocation: Allocation, reason: jobs.StopReason, context: Context
) -> pb.AllocationReleaseRequested:
    """A run is told to stop, with its own grace period."""
    return pb.AllocationReleaseRequested(
        allocation_id=allocation.allocation_id,
        job_id=allocation.job_id,
        run=allocation.run,
        node_id=allocation.node_id,
        reason=reason,
        grace_period_seconds=allocation.grace_period_seconds,
        at_us=context.at_us,
        project_id=allocation.project_id,
    )


def started(
    command: pb.ReportAllocationStartedRequest, state: State, context: Context
) -> list[Message]:
    """A process runs; told twice, it is one."""
    allocation = held(state, command.allocation_id, command.run)
    if allocation.started_at_us:
        return []
    return [
        pb.AllocationStarted(
            allocation_id=allocation.allocation_id,
            job_id=allocation.job_id,
            run=allocation.run,
            node_id=allocation.node_id,
            pid=command.pid,
            isolation=command.isolation,
            started_at_us=command.started_at_us,
            at_us=context.at_us,
            project_id=allocation.project_id,
        )
    ]


def progressed(
    command: pb.ReportAllocationProgressRequest, state: State, context: Context
) -> list[Message]:
    """A run is so far."""
    allocation = held(state, command.allocation_id, command.run)
    return [
        pb.AllocationProgressed(
            allocation_id=allocation.allocation_id,
            job_id=allocation.job_id,
            run=allocation.run,
            epoch=command.epoch,
            step=command.step,
            progress_basis_points=command.progress_basis_points,
            metrics=command.metrics,
            at_us=context.at_us,
            project_id=allocation.project_id,
        )
    ]


def checkpointed(
    command: pb.ReportAllocationCheckpointRequest, state: State, context: Context
) -> list[Message]:
    """A checkpoint is complete; where it lies and who wrote it is known here."""
    allocation = held(state, command.allocation_id, command.run)
    event = pb.AllocationCheckpointed(
        allocation_id=allocation.allocation_id,
        job_id=allocation.job_id,
        run=allocation.run,
        checkpoint=command.checkpoint,
        at_us=context.at_us,
        project_id=allocation.project_id,
    )
    event.checkpoint.run = allocation.run
    event.checkpoint.node_id = allocation.node_id
    return [event]


def finished(
    command: pb.ReportAllocationFinishedRequest, state: State, context: Context
) -> list[Message]:
    """A run ended; its place is free."""
    allocation = held(state, command.allocation_id, command.run)
    return [released(allocation, command.result, context)]


def released(
    allocation: Allocation, result: jobs.RunResult, context: Context
) -> pb.AllocationReleased:
    """A place is free, with all that its price needs."""
    return pb.AllocationReleased(
        allocation_id=allocation.allocation_id,
        job_id=allocation.job_id,
        run=allocation.run,
        node_id=allocation.node_id,
        result=result,
        stop_reason=allocation.stop_reason,
        granted_at_us=allocation.granted_at_us,
        started_at_us=allocation.started_at_us,
        at_us=context.at_us,
        project_id=allocation.project_id,
        resources=resources_of(allocation.amounts),
        gpu_uuids=allocation.gpu_uuids,
    )


def held(state: State, allocation_id: str, run: int) -> Allocation:
    """The live allocation that a report is about, or Rejected."""
    allocation = state.allocations.get(allocation_id)
    if allocation is None:
        raise Rejected(Code.NOT_FOUND, f"no allocation {allocation_id!r} is held", "allocation_id")
    if allocation.run != run:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"run {run} does not hold {allocation_id}, run {allocation.run} does: stop it",
            "run",
        )
    return allocation
