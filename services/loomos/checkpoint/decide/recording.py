"""Recording: what the scheduler's log says a run wrote, once for each run and content."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import checkpoint_pb2 as pb
from loomos.checkpoint.decide.keeping import expire, surplus
from loomos.checkpoint.evolve import recorded
from loomos.checkpoint.state import Job, State, Status, location

__all__ = ["record"]


def record(command: pb.RecordCheckpointRequest, state: State, context: Context) -> list[Message]:
    """The checkpoint, and those that must go for it; the same one again changes nothing."""
    job = state.jobs.get(command.job_id, Job())
    # What counts is what was heard: a command alone founds no checkpoint.
    waiting = job.pending.get((command.run, command.sha256))
    if waiting is None:
        if any(same(command, one.run, one.sha256, one.status) for one in job.checkpoints.values()):
            return []
        raise unheard(command, job)
    ref = waiting.ref
    event = pb.CheckpointRecorded(
        checkpoint_id=context.new_id("checkpoint"),
        project_id=state.shard,
        job_id=command.job_id,
        run=command.run,
        number=job.last_number + 1,
        type=command.type or pb.CHECKPOINT_TYPE_FULL,
        parent_id=job.last_id,
        path=location(command.job_id, ref.sha256),
        sha256=ref.sha256,
        size_bytes=ref.size_bytes,
        epoch=ref.epoch,
        step=ref.step,
        node_id=ref.node_id,
        metrics=waiting.metrics,
        completed_at_us=waiting.completed_at_us,
        source_event_id=command.source_event_id,
    )
    return [event, *made_room(event, job, state, context)]


def made_room(
    event: pb.CheckpointRecorded, job: Job, state: State, context: Context
) -> list[Message]:
    """The expiries that the retention asks for once this one is among the job's checkpoints."""
    after = State(state.shard, retention=state.retention)
    after.jobs[event.job_id] = Job(
        ended=job.ended,
        resume_sha256=job.resume_sha256,
        resumed_sha256=job.resumed_sha256,
        pending=dict(job.pending),
        checkpoints=dict(job.checkpoints),
    )
    recorded(after, event)
    left = after.jobs[event.job_id]
    going = surplus(left, state.retention, context.at_us)
    return expire(state, event.job_id, left, going, pb.EXPIRY_REASON_RETENTION)


def same(command: pb.RecordCheckpointRequest, run: int, sha256: bytes, status: Status) -> bool:
    """Whether the command's checkpoint stands already; an expired one may be written again."""
    return (run, sha256) == (command.run, command.sha256) and status != Status.EXPIRED


def unheard(command: pb.RecordCheckpointRequest, job: Job) -> Rejected:
    """Why a checkpoint that does not wait to be recorded is refused."""
    if command.run < job.run:
        return Rejected(
            Code.FAILED_PRECONDITION,
            f"run {command.run} of job {command.job_id} is over, its generation is {job.run}: "
            "what an older run writes does not count",
            "run",
        )
    place = location(command.job_id, command.sha256)
    if command.path != place:
        return Rejected(
            Code.INVALID_ARGUMENT,
            f"path {command.path!r} is not that of job and digest: want {place!r}",
            "path",
        )
    return Rejected(
        Code.FAILED_PRECONDITION,
        f"the scheduler's log names no such checkpoint of run {command.run} of job "
        f"{command.job_id}: report it through the run's node",
        "job_id",
    )
