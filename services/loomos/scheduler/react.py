"""What scheduling asks of others: places for runs, places back, a completed job's model registered.

Invariant: a command says all that its service needs; it never asks back.
"""

from google.protobuf.message import Message

from loom.decider import Command, Recorded
from loom.v1 import deployment_pb2
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb
from loomos.scheduler.state import Job, State

__all__ = ["react"]


def react(record: Recorded, view: State) -> list[Command]:
    """The commands that an event of the scheduler causes."""
    match record.event:
        case pb.JobPlaced() as event:
            job = view.jobs[event.job_id]
            one = rm.Grant(node_id=event.node_id, run=run_spec(job, event.run, view))
            grant = rm.GrantAllocationsRequest(
                cluster_id=view.shard, round_id=event.round_id, grants=[one]
            )
            return [Command(grant)]
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
        case pb.JobFinished() as event if event.status == pb.JOB_STATUS_COMPLETED and view.jobs[
            event.job_id
        ].spec.HasField("register_model"):
            return [registration(event, view.jobs[event.job_id])]
        case _:
            return []


def run_spec(job: Job, run: int, view: State) -> rm.RunSpec:
    """What a node must know to run a job, inputs with their content."""
    spec = pb.JobSpec()
    spec.CopyFrom(job.spec)
    for one in spec.inputs:
        one.content = view.contents[one.sha256].data
    left = job.spec.max_runtime_seconds - job.runtime_us // 1_000_000
    return rm.RunSpec(
        job_id=job.job_id,
        run=run,
        project_id=job.project_id,
        spec=spec,
        runtime_seconds_left=max(1, left),
        resume_from=job.checkpoint,
    )


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


def registration(event: pb.JobFinished, job: Job) -> Command:
    """Register what a job left behind as the next version of the model that its spec names."""
    lineage = deployment_pb2.Lineage(
        job_id=event.job_id, run=event.run, dataset_id=job.spec.dataset_id
    )
    if event.HasField("checkpoint"):
        lineage.checkpoint_sha256 = event.checkpoint.sha256
    files = [
        deployment_pb2.ArtifactFile(
            path=file.path,
            sha256=file.sha256,
            size_bytes=file.size_bytes,
            location=file.location,
        )
        for file in event.result.outputs
    ]
    return Command(
        deployment_pb2.RegisterModelVersionRequest(
            project_id=event.project_id,
            model_name=job.spec.register_model.model_name,
            plugin=job.spec.register_model.plugin,
            lineage=lineage,
            artifact=deployment_pb2.Artifact(files=files),
        )
    )
