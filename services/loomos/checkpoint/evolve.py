"""How each event changes a project's checkpoints; heard events of the scheduler too."""

from google.protobuf.message import Message

from loom.v1 import checkpoint_pb2 as pb
from loom.v1 import scheduler_pb2 as scheduler
from loomos.checkpoint.state import (
    Checkpoint,
    Job,
    Pending,
    Retention,
    State,
    Status,
    find,
    location,
)

__all__ = ["evolve"]

METRICS_MAX = 256


def evolve(state: State, event: Message) -> None:
    """Change the state by one event; other classes change nothing."""
    match event:
        case pb.CheckpointRecorded():
            recorded(state, event)
        case pb.RetentionSet():
            state.retention = Retention(
                event.checkpoints_per_job_max, event.best_metric, event.best_order
            )
            state.unswept = dict.fromkeys(j for j, job in state.jobs.items() if job.checkpoints)
        case pb.RetentionApplied():
            for job_id in event.job_ids:
                state.unswept.pop(job_id, None)
        case pb.CheckpointDeleted():
            deleted(state, event.checkpoint_id)
        case (
            scheduler.JobPlaced()
            | scheduler.JobStarted()
            | scheduler.JobProgressed()
            | scheduler.JobCheckpointed()
            | scheduler.JobPreempted()
            | scheduler.JobRequeued()
            | scheduler.JobPaused()
            | scheduler.JobFinished()
        ):
            heard(state, event.job_id, event)
        case _:
            changed(state, event)


def changed(state: State, event: Message) -> None:
    """What happens to one checkpoint."""
    found = find(state, getattr(event, "checkpoint_id", ""))
    if found is None:
        return
    _, _, one = found
    match event:
        case pb.CheckpointProtected():
            one.protected = True
        case pb.CheckpointUnprotected():
            one.protected = False
        case pb.CheckpointExpired():
            one.status, one.deletion_failed = Status.EXPIRED, False
        case pb.CheckpointDeletionFailed():
            one.deletion_failed = True
        case pb.CheckpointVerificationRequested():
            one.status = Status.VERIFYING
        case pb.CheckpointRestoreRequested():
            one.status = Status.RESTORING
            one.held_until_us = max(one.held_until_us, event.held_until_us)
        case pb.CheckpointVerified():
            one.status, one.corrupted = Status.VERIFIED, False
        case pb.CheckpointCorrupted():
            one.status, one.corrupted = Status.CORRUPTED, True


def recorded(state: State, event: pb.CheckpointRecorded) -> None:
    """What was heard of is in this log now."""
    job = state.jobs.setdefault(event.job_id, Job())
    job.pending.pop((event.run, event.sha256), None)
    job.last_number, job.last_id = event.number, event.checkpoint_id
    job.checkpoints[event.checkpoint_id] = Checkpoint(
        id=event.checkpoint_id,
        number=event.number,
        run=event.run,
        sha256=event.sha256,
        size_bytes=event.size_bytes,
        type=event.type,
        parent_id=event.parent_id,
        completed_at_us=event.completed_at_us,
        metrics={metric.name: metric.value for metric in event.metrics},
    )
    state.job_ids[event.checkpoint_id] = event.job_id


def deleted(state: State, checkpoint_id: str) -> None:
    """The files are gone: nothing is decided about it any more."""
    job_id = state.job_ids.pop(checkpoint_id, "")
    if job_id:
        del state.jobs[job_id].checkpoints[checkpoint_id]
        forget(state, job_id)


def forget(state: State, job_id: str) -> None:
    """A job that ended and has left nothing goes."""
    job = state.jobs[job_id]
    if job.ended and not job.checkpoints and not job.pending:
        del state.jobs[job_id]
        state.unswept.pop(job_id, None)


def heard(state: State, job_id: str, event: Message) -> None:
    """What the scheduler says of a job."""
    if isinstance(event, scheduler.JobFinished) and job_id not in state.jobs:
        return
    job = state.jobs.setdefault(job_id, Job())
    match event:
        case scheduler.JobPlaced():
            job.run = max(job.run, event.run)
            job.resumed_sha256 = job.resume_sha256
        case scheduler.JobStarted():
            job.run = max(job.run, event.run)
            job.resumed_sha256 = event.resumed_from.sha256
        case scheduler.JobProgressed():
            measured(job, event)
        case scheduler.JobCheckpointed():
            pending(job, event)
        case scheduler.JobFinished():
            job.ended, job.resumed_sha256 = True, b""
            job.metrics.clear()
            state.unswept[job_id] = None
            forget(state, job_id)
        case _:
            job.resumed_sha256 = b""


def measured(job: Job, event: scheduler.JobProgressed) -> None:
    """The latest value of each metric; a job cannot fill the memory with names."""
    for metric in event.metrics:
        if metric.name in job.metrics or len(job.metrics) < METRICS_MAX:
            job.metrics[metric.name] = metric


def pending(job: Job, event: scheduler.JobCheckpointed) -> None:
    """A checkpoint of the current run, in its place, waits to be recorded."""
    ref = event.checkpoint
    stale = event.run < job.run
    if stale or ref.path != location(event.job_id, ref.sha256):
        return
    job.run = event.run
    job.resume_sha256 = ref.sha256
    known = any(
        (one.run, one.sha256) == (event.run, ref.sha256) and one.status != Status.EXPIRED
        for one in job.checkpoints.values()
    )
    if not known:
        metrics = [job.metrics[name] for name in sorted(job.metrics)]
        of_epoch = [metric for metric in metrics if metric.epoch == ref.epoch]
        job.pending[event.run, ref.sha256] = Pending(ref, of_epoch, event.at_us)
