"""Folds events into the scheduler's state: its own, and those heard from others.

1. No rule and no check: an event is a fact. Total over the service's events.
2. A job that changes leaves the indexes first and enters them again after (`leave`, `enter`).
3. What is heard is in `heard.py`; it changes nodes and claims, and waits in the inbox.
"""

from google.protobuf.message import Message

from loom.v1 import common_pb2
from loom.v1 import scheduler_pb2 as pb
from loomos.scheduler.evolve.heard import hear
from loomos.scheduler.evolve.index import (
    add_claim,
    add_timer,
    charge,
    count,
    drop_timers,
    enter,
    forget_contents,
    keep_contents,
    leave,
)
from loomos.scheduler.state import COOLDOWN_US, Claim, Job, State, need_of

__all__ = ["evolve"]


def evolve(state: State, event: Message) -> None:
    """Change the state by one event of this service, or by one heard from another."""
    match event:
        case pb.JobSubmitted():
            submitted(state, event)
        case pb.JobPlaced():
            placed(state, event)
        case pb.JobUnplaced():
            change(state, event.job_id, status=pb.JOB_STATUS_QUEUED)
        case pb.JobPreemptionRequested():
            stopping(state, event, pb.STOP_REASON_PREEMPTED)
            job = state.jobs[event.job_id]
            job.preemptor_job_id, job.stop_round_id = event.preemptor_job_id, event.round_id
        case pb.JobStopRequested():
            stopping(state, event, event.reason)
        case pb.JobAdmitted():
            admitted(state, event)
        case pb.JobStarted():
            started(state, event)
        case pb.JobCheckpointed():
            state.jobs[event.job_id].checkpoint = event.checkpoint
        case pb.JobPreempted():
            ended_run(state, event.job_id, event.at_us, pb.JOB_STATUS_PREEMPTED)
            state.jobs[event.job_id].preemptions += 1
        case pb.JobPaused():
            ended_run(state, event.job_id, event.at_us, pb.JOB_STATUS_PAUSED)
        case pb.JobRequeued():
            requeued(state, event)
        case pb.JobFinished():
            finished(state, event)
        case pb.RoundDecided():
            decided(state, event)
        case pb.FactsSettled():
            for _ in range(event.count):
                state.inbox.popleft()
        case common_pb2.InputsAdvanced():
            for moved in event.inputs:
                state.inputs[(moved.next.topic, moved.next.partition)] = moved.next
        case _:
            hear(state, event)


def submitted(state: State, event: pb.JobSubmitted) -> None:
    """A job enters; the content of its inputs is kept apart, once for all jobs that use it."""
    keep_contents(state, event.spec)
    spec = pb.JobSpec()
    spec.CopyFrom(event.spec)
    for one in spec.inputs:
        one.ClearField("content")
    job = Job(
        job_id=event.job_id,
        project_id=event.project_id,
        submitted_by=event.submitted_by,
        submitted_at_us=event.submitted_at_us,
        spec=spec,
        need=need_of(spec),
        priority=event.priority,
        group_id=event.group_id,
    )
    state.jobs[job.job_id] = job
    state.fresh[job.job_id] = None
    count(state, job, 1)
    enter(state, job)


def placed(state: State, event: pb.JobPlaced) -> None:
    """A new run claims its place before the resource manager has said yes."""
    job = change(
        state,
        event.job_id,
        status=pb.JOB_STATUS_SCHEDULED,
        run=event.run,
        node_id=event.node_id,
        not_before_us=0,
        stop_reason=0,
        preemptor_job_id="",
    )
    need = job.need
    add_claim(state, Claim(job.job_id, job.run, event.node_id, need.amounts, need.gpus))


def stopping(
    state: State, event: pb.JobPreemptionRequested | pb.JobStopRequested, reason: int
) -> None:
    """A run was told to stop; its place counts as leaving."""
    change(state, event.job_id, status=pb.JOB_STATUS_CHECKPOINTING, stop_reason=reason)
    job = state.jobs[event.job_id]
    node = state.nodes.get(job.node_id)
    if node is not None and job.job_id in node.claims:
        node.claims[job.job_id].leaving = True


def admitted(state: State, event: pb.JobAdmitted) -> None:
    """The grant came; a job that was told to stop meanwhile goes on stopping."""
    status = state.jobs[event.job_id].status
    change(
        state,
        event.job_id,
        status=pb.JOB_STATUS_STARTING if status == pb.JOB_STATUS_SCHEDULED else status,
        allocation_id=event.allocation_id,
        node_id=event.node_id,
        admitted_at_us=event.at_us,
    )


def started(state: State, event: pb.JobStarted) -> None:
    """The process runs; from now its time counts."""
    status = state.jobs[event.job_id].status
    job = change(
        state,
        event.job_id,
        status=pb.JOB_STATUS_RUNNING if status == pb.JOB_STATUS_STARTING else status,
        started_at_us=event.at_us,
    )
    limit_us = job.spec.max_runtime_seconds * 1_000_000
    add_timer(state, (event.at_us + limit_us - job.runtime_us, "limit", job.job_id, job.run))
    if job.run > 1:
        add_timer(state, (event.at_us + COOLDOWN_US, "wake", job.job_id, job.run))


def requeued(state: State, event: pb.JobRequeued) -> None:
    """A job waits again, perhaps not before a time."""
    job = ended_run(state, event.job_id, event.at_us, event.status)
    leave(state, job)
    job.retries += event.retry_counted
    job.not_before_us = event.not_before_us
    job.avoid_node_id = event.avoid_node_id
    enter(state, job)
    if event.not_before_us:
        add_timer(state, (event.not_before_us, "wake", job.job_id, job.run))


def finished(state: State, event: pb.JobFinished) -> None:
    """A job ended for good: nothing of it is counted or kept but the job itself."""
    job = ended_run(state, event.job_id, event.at_us, event.status)
    state.fresh.pop(job.job_id, None)
    count(state, job, -1)
    forget_contents(state, job.spec)


def ended_run(state: State, job_id: str, at_us: int, status: int) -> Job:
    """A run is over: its time and its GPUs are charged."""
    job = state.jobs[job_id]
    if job.admitted_at_us:
        charge(state, job, at_us)
    ran_us = at_us - job.started_at_us if job.started_at_us else 0
    return change(
        state,
        job_id,
        status=status,
        runtime_us=job.runtime_us + ran_us,
        allocation_id="",
        admitted_at_us=0,
        started_at_us=0,
        stop_reason=0,
    )


def decided(state: State, event: pb.RoundDecided) -> None:
    """A round is over: what it could use is used up, unless it was cut short."""
    state.dirty = event.truncated
    state.round_at_us = event.at_us
    for group in event.unplaced:
        state.group_reasons[group.group_id] = (group.reason, group.detail)
    drop_timers(state)


def change(state: State, job_id: str, **fields: object) -> Job:
    """Set fields of a job, with the indexes kept."""
    job = state.jobs[job_id]
    leave(state, job)
    for name, value in fields.items():
        setattr(job, name, value)
    if job.status != pb.JOB_STATUS_PENDING:
        state.fresh.pop(job_id, None)
    enter(state, job)
    return job
