"""What scheduling asks of the resource manager: places for runs, and places back.

Invariant: a command says all that the resource manager needs; it never asks back.
"""

from google.protobuf.message import Message

from loom.decider import Command, Recorded
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb
from loomos.scheduler.state import Job, State

__all__ = ["react"]

GRANTS_MAX = 64
GRANT_BYTES_MAX = 640 * 1024


def react(record: Recorded, view: State) -> list[Command]:
    """The commands that an event of the scheduler causes."""
    match record.event:
        case pb.RoundDecided() as event:
            return grants(event, view)
        case pb.JobPreemptionRequested() as event:
            reason = pb.STOP_REASON_PREEMPTED
            return [release(event.allocation_id, reason, event.grace_period_seconds, event)]
        case pb.JobStopRequested() as event if (
            event.allocation_id and event.reason != pb.STOP_REASON_DRAINED
        ):
            return [release(event.allocation_id, event.reason, event.grace_period_seconds, event)]
        case pb.JobAdmitted() as event if view.jobs[event.job_id].stop_reason:
            job = view.jobs[event.job_id]
            return [release(event.allocation_id, job.stop_reason, 0, event)]
        case _:
            return []


def grants(event: pb.RoundDecided, view: State) -> list[Command]:
    """The places that a round found, in batches that fit one command's records."""
    batches: list[list[rm.Grant]] = []
    size = 0
    for placement in event.placements:
        job = view.jobs[placement.job_id]
        one = rm.Grant(node_id=placement.node_id, run=run_spec(job, placement.run, view))
        size += one.ByteSize()
        if not batches or size > GRANT_BYTES_MAX or len(batches[-1]) == GRANTS_MAX:
            batches.append([])
            size = one.ByteSize()
        batches[-1].append(one)
    return [
        Command(
            rm.GrantAllocationsRequest(
                cluster_id=event.cluster_id, round_id=event.round_id, grants=batch
            ),
            f"grant-{index}",
        )
        for index, batch in enumerate(batches)
    ]


def run_spec(job: Job, run: int, view: State) -> rm.RunSpec:
    """What a node must know to run a job, inputs with their content."""
    spec = pb.JobSpec()
    spec.CopyFrom(job.spec)
    for one in spec.inputs:
        one.content = view.contents[one.sha256].data
    left = job.spec.max_runtime_seconds - job.runtime_us // 1_000_000
    made = rm.RunSpec(
        job_id=job.job_id,
        run=run,
        project_id=job.project_id,
        spec=spec,
        runtime_seconds_left=max(1, left),
    )
    if job.checkpoint is not None:
        made.resume_from.CopyFrom(job.checkpoint)
    return made


def release(
    allocation_id: str, reason: pb.StopReason, grace_period_seconds: int, cause: Message
) -> Command:
    """Give a place back."""
    request = rm.ReleaseAllocationRequest(
        allocation_id=allocation_id, reason=reason, grace_period_seconds=grace_period_seconds
    )
    if isinstance(cause, pb.JobPreemptionRequested):
        request.preemptor_job_id = cause.preemptor_job_id
    return Command(request)
