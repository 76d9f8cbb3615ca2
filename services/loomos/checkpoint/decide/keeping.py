"""Keeping: which checkpoints go, by the project's retention or on request, and which never do."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import checkpoint_pb2 as pb
from loomos.checkpoint.state import (
    Checkpoint,
    Job,
    Retention,
    State,
    Status,
    best_of,
    find,
    needed,
    usable,
)

__all__ = [
    "delete",
    "deleted",
    "expire",
    "known",
    "protect",
    "set_retention",
    "surplus",
    "sweep",
    "unprotect",
]

EXPIRIES_MAX = 200
"""Of one command: its events travel in one record batch."""


def known(state: State, checkpoint_id: str) -> tuple[str, Job, Checkpoint]:
    """A checkpoint with its job; Rejected where there is none."""
    found = find(state, checkpoint_id)
    if found is None:
        raise Rejected(Code.NOT_FOUND, f"no checkpoint {checkpoint_id!r}", "checkpoint_id")
    return found


def surplus(job: Job, retention: Retention, at_us: int) -> list[Checkpoint]:
    """The job's checkpoints that the retention lets go, oldest first."""
    whole = usable(job)
    counted = [one for one in whole if not one.protected]
    over = min(len(counted) - retention.checkpoints_per_job_max, EXPIRIES_MAX)
    if over <= 0:
        return []
    best = None
    if retention.best_metric:
        best = best_of(whole, retention.best_metric, retention.best_order)
    free = [
        one
        for one in counted
        if one is not whole[-1] and one is not best and not needed(job, one, at_us)
    ]
    return free[:over]


def expire(
    state: State, job_id: str, job: Job, going: list[Checkpoint], reason: pb.ExpiryReason
) -> list[Message]:
    """The events by which checkpoints of a job go; files that others have too stay."""
    names = {one.id for one in going}
    wanted = {sha256 for _, sha256 in job.pending} | {
        one.sha256
        for one in job.checkpoints.values()
        if one.id not in names and one.status != Status.EXPIRED
    }
    return [
        pb.CheckpointExpired(
            checkpoint_id=one.id,
            project_id=state.shard,
            job_id=job_id,
            sha256=one.sha256,
            completed_at_us=one.completed_at_us,
            files_shared=one.sha256 in wanted,
            reason=reason,
        )
        for one in going
    ]


def sweep(state: State, context: Context) -> list[Message]:
    """Apply the retention to the jobs that wait for it, as many as fit into one command."""
    events: list[Message] = []
    done: list[str] = []
    for job_id in state.unswept:
        job = state.jobs[job_id]
        found = surplus(job, state.retention, context.at_us)
        room = EXPIRIES_MAX - len(events)
        if len(found) > room and events:
            break
        events += expire(state, job_id, job, found, pb.EXPIRY_REASON_RETENTION)
        if len(found) == EXPIRIES_MAX:
            # There may be more: the job stays for the next tick.
            break
        done.append(job_id)
        if len(done) == EXPIRIES_MAX:
            break
    if done:
        events.append(pb.RetentionApplied(project_id=state.shard, job_ids=done))
    return events


def set_retention(command: pb.SetRetentionRequest, state: State) -> list[Message]:
    """A new policy; the same one again changes nothing."""
    order = command.best_order or pb.METRIC_ORDER_HIGHEST
    wanted = Retention(command.checkpoints_per_job_max, command.best_metric, order)
    if wanted == state.retention:
        return []
    return [
        pb.RetentionSet(
            project_id=state.shard,
            checkpoints_per_job_max=command.checkpoints_per_job_max,
            best_metric=command.best_metric,
            best_order=order,
        )
    ]


def protect(command: pb.ProtectCheckpointRequest, state: State) -> list[Message]:
    """Keep it; one that is going already cannot be kept."""
    _, job, one = known(state, command.checkpoint_id)
    if one.protected:
        return []
    if one not in usable(job):
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"checkpoint {one.id} is {one.status.name}: only a usable one can be protected",
            "checkpoint_id",
        )
    return [pb.CheckpointProtected(checkpoint_id=one.id, project_id=state.shard)]


def unprotect(command: pb.UnprotectCheckpointRequest, state: State) -> list[Message]:
    """Let it go with the others."""
    _, _, one = known(state, command.checkpoint_id)
    if not one.protected:
        return []
    return [pb.CheckpointUnprotected(checkpoint_id=one.id, project_id=state.shard)]


def delete(command: pb.DeleteCheckpointRequest, state: State, context: Context) -> list[Message]:
    """Expire it on request; a deletion that failed is tried again."""
    job_id, job, one = known(state, command.checkpoint_id)
    if one.status == Status.EXPIRED and not one.deletion_failed:
        return []
    if one.protected:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"checkpoint {one.id} is protected: take the protection away first",
            "checkpoint_id",
        )
    purpose = "" if one.status == Status.EXPIRED else needed(job, one, context.at_us)
    if purpose:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"checkpoint {one.id} cannot be deleted now: {purpose}",
            "checkpoint_id",
        )
    return expire(state, job_id, job, [one], pb.EXPIRY_REASON_REQUESTED)


def deleted(command: pb.ReportCheckpointDeletedRequest, state: State) -> list[Message]:
    """What the deletion came to; a report about one that is kept again changes nothing."""
    _, _, one = known(state, command.checkpoint_id)
    if one.status != Status.EXPIRED:
        return []
    if command.problem:
        return [
            pb.CheckpointDeletionFailed(
                checkpoint_id=one.id, project_id=state.shard, problem=command.problem
            )
        ]
    return [
        pb.CheckpointDeleted(
            checkpoint_id=one.id, project_id=state.shard, files_kept=command.files_kept
        )
    ]
