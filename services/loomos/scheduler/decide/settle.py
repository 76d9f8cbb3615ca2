"""Turns what was heard of allocations, and the end of a time limit, into the job's own events.

1. Facts are settled in the order heard; once a fact has changed a job's status, that job's next
   fact waits for the next tick, so that each is decided on what the ones before it left.
2. A fact about a run that is not the job's current one changes nothing.
3. A run that ends with exit code 0 completes its job, whatever it was told meanwhile.
"""

from itertools import islice
from typing import Any

from google.protobuf.message import Message

from loom.decider import Context
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb
from loomos.scheduler.decide.job import stop
from loomos.scheduler.state import ENDED, WAITING, Job, State

__all__ = ["settle", "time_out"]

FACTS_MAX = 256
FACT_BYTES_MAX = 200_000
"""Facts are settled until their sizes pass this, so that a command's events fit one batch."""
TIME_OUTS_MAX = 256

STOPPED_FOR_GOOD: dict[pb.StopReason, pb.JobStatus] = {
    pb.STOP_REASON_CANCELLED: pb.JOB_STATUS_CANCELLED,
    pb.STOP_REASON_BUDGET_EXCEEDED: pb.JOB_STATUS_CANCELLED,
    pb.STOP_REASON_TIMED_OUT: pb.JOB_STATUS_FAILED,
}


def settle(state: State, context: Context) -> list[Message]:
    """The events that the oldest facts of the inbox cause, and how many facts they settle."""
    events: list[Message] = []
    changed: set[str] = set()
    count = size = 0
    for fact in islice(state.inbox, FACTS_MAX):
        job_id, run = about(fact)
        if job_id in changed or size > FACT_BYTES_MAX:
            break
        count += 1
        size += fact.ByteSize()
        job = state.jobs.get(job_id)
        if job is None or job.run != run or job.status in ENDED or job.status in WAITING:
            continue
        caused = consequence(fact, job, context)
        if caused is None:
            continue
        events.append(caused)
        if not isinstance(caused, pb.JobProgressed | pb.JobCheckpointed):
            changed.add(job_id)
    events.append(pb.FactsSettled(cluster_id=state.shard, count=count))
    return events


def about(fact: Message) -> tuple[str, int]:
    """The job and the run that a fact is about."""
    match fact:
        case rm.AllocationGranted():
            return fact.run.job_id, fact.run.run
        case (
            rm.AllocationRefused()
            | rm.AllocationStarted()
            | rm.AllocationProgressed()
            | rm.AllocationCheckpointed()
            | rm.AllocationReleaseRequested()
            | rm.AllocationReleased()
        ):
            return fact.job_id, fact.run
        case _:
            return "", 0


def consequence(fact: Message, job: Job, context: Context) -> Message | None:
    """What a fact means for its job."""
    common: dict[str, Any] = {"job_id": job.job_id, "project_id": job.project_id}
    match fact:
        case rm.AllocationGranted():
            return pb.JobAdmitted(
                **common,
                run=job.run,
                allocation_id=fact.allocation_id,
                node_id=fact.node_id,
                gpu_uuids=fact.gpu_uuids,
                at_us=fact.at_us,
            )
        case rm.AllocationRefused():
            return refused(fact, job, context)
        case rm.AllocationStarted():
            return pb.JobStarted(
                **common,
                run=job.run,
                allocation_id=fact.allocation_id,
                node_id=fact.node_id,
                isolation=fact.isolation,
                at_us=fact.at_us,
                resumed_from=job.checkpoint,
            )
        case rm.AllocationProgressed():
            return pb.JobProgressed(
                **common,
                run=job.run,
                epoch=fact.epoch,
                step=fact.step,
                progress_basis_points=fact.progress_basis_points,
                metrics=fact.metrics,
                at_us=fact.at_us,
            )
        case rm.AllocationCheckpointed():
            return pb.JobCheckpointed(
                **common, run=job.run, checkpoint=fact.checkpoint, at_us=fact.at_us
            )
        case rm.AllocationReleaseRequested():
            drained = fact.reason == pb.STOP_REASON_DRAINED and not job.stop_reason
            return stop(job, fact.reason, "its node is drained", context) if drained else None
        case rm.AllocationReleased():
            return ended(fact, job, context)
        case _:
            return None


def refused(fact: rm.AllocationRefused, job: Job, context: Context) -> Message:
    """No place after all: the job waits again, unless it was told to stop meanwhile."""
    not_started = pb.RunResult(outcome=pb.RUN_OUTCOME_NOT_STARTED, detail=fact.detail)
    if job.stop_reason in STOPPED_FOR_GOOD:
        return finished(job, STOPPED_FOR_GOOD[job.stop_reason], not_started, "", context)
    if job.stop_reason == pb.STOP_REASON_PAUSED:
        return paused(job, not_started, context)
    told = f"{fact.node_id} refused: {fact.detail}"
    return requeued(job, pb.JOB_STATUS_QUEUED, not_started, told, context, avoid=True)


def ended(fact: rm.AllocationReleased, job: Job, context: Context) -> Message:
    """A run is over: its job is done, waits again, or failed."""
    result = fact.result
    reason = job.stop_reason or fact.stop_reason
    if result.outcome == pb.RUN_OUTCOME_EXITED and result.exit_code == 0:
        return finished(job, pb.JOB_STATUS_COMPLETED, result, "exit code 0", context)
    if reason in STOPPED_FOR_GOOD:
        return finished(
            job, STOPPED_FOR_GOOD[reason], result, stopped_because(job, reason), context
        )
    if reason == pb.STOP_REASON_PAUSED:
        return paused(job, result, context)
    if reason == pb.STOP_REASON_PREEMPTED:
        return preempted(job, result, context)
    if reason in (pb.STOP_REASON_DRAINED, pb.STOP_REASON_FENCED):
        told = f"left {fact.node_id}"
        return requeued(job, pb.JOB_STATUS_MIGRATING, result, told, context)
    if result.outcome == pb.RUN_OUTCOME_NOT_STARTED:
        told = f"{fact.node_id} did not start it"
        return requeued(job, pb.JOB_STATUS_QUEUED, result, told, context, avoid=True)
    if result.outcome == pb.RUN_OUTCOME_NODE_LOST and not job.spec.retry.fail_on_node_loss:
        told = f"{fact.node_id} was lost"
        return requeued(job, pb.JOB_STATUS_MIGRATING, result, told, context, avoid=True)
    return failed(job, result, context)


def failed(job: Job, result: pb.RunResult, context: Context) -> Message:
    """A run failed by itself: it is tried again while retries are left."""
    told = describe(result)
    if job.retries >= job.spec.retry.retries_max:
        return finished(job, pb.JOB_STATUS_FAILED, result, told, context)
    retry = job.spec.retry
    delay_us = retry.delay_seconds * 1_000_000
    for _ in range(job.retries):
        delay_us = min(delay_us * retry.backoff_percent // 100, 86_400_000_000)
    event = requeued(job, pb.JOB_STATUS_QUEUED, result, told, context, avoid=True)
    event.retry_counted = True
    event.not_before_us = context.at_us + delay_us if delay_us else 0
    return event


def finished(
    job: Job, status: pb.JobStatus, result: pb.RunResult, detail: str, context: Context
) -> pb.JobFinished:
    """The job ends for good."""
    return pb.JobFinished(
        job_id=job.job_id,
        run=job.run,
        status=status,
        stop_reason=job.stop_reason,
        result=result,
        detail=detail,
        at_us=context.at_us,
        project_id=job.project_id,
        node_id=job.node_id,
        checkpoint=job.checkpoint,
    )


def paused(job: Job, result: pb.RunResult, context: Context) -> pb.JobPaused:
    """The job holds nothing until it is resumed."""
    return pb.JobPaused(
        job_id=job.job_id,
        run=job.run,
        result=result,
        at_us=context.at_us,
        project_id=job.project_id,
        checkpoint=job.checkpoint,
    )


def preempted(job: Job, result: pb.RunResult, context: Context) -> pb.JobPreempted:
    """The job gave way and waits to resume."""
    return pb.JobPreempted(
        job_id=job.job_id,
        run=job.run,
        preemptor_job_id=job.preemptor_job_id,
        round_id=job.stop_round_id,
        result=result,
        at_us=context.at_us,
        project_id=job.project_id,
        checkpoint=job.checkpoint,
    )


def requeued(
    job: Job,
    status: pb.JobStatus,
    result: pb.RunResult,
    detail: str,
    context: Context,
    avoid: bool = False,
) -> pb.JobRequeued:
    """The job waits again, at once unless it is a retry with a delay."""
    return pb.JobRequeued(
        job_id=job.job_id,
        run=job.run,
        status=status,
        detail=detail,
        result=result,
        avoid_node_id=job.node_id if avoid else "",
        at_us=context.at_us,
        project_id=job.project_id,
        checkpoint=job.checkpoint,
    )


def time_out(state: State, context: Context) -> list[Message]:
    """Jobs whose time limit has passed are told to stop."""
    late = sorted(
        timer for timer in state.timers if timer[1] == "limit" and timer[0] <= context.at_us
    )
    events: list[Message] = []
    for _, _, job_id, run in late[:TIME_OUTS_MAX]:
        job = state.jobs[job_id]
        if job.run == run and job.status == pb.JOB_STATUS_RUNNING:
            told = f"ran for max_runtime_seconds = {job.spec.max_runtime_seconds}"
            events.append(stop(job, pb.STOP_REASON_TIMED_OUT, told, context))
    return events


def stopped_because(job: Job, reason: pb.StopReason) -> str:
    """Why a job was stopped for good, for people."""
    match reason:
        case pb.STOP_REASON_TIMED_OUT:
            return f"ran longer than max_runtime_seconds = {job.spec.max_runtime_seconds}"
        case pb.STOP_REASON_BUDGET_EXCEEDED:
            return f"cost reached budget_micro_dollars = {job.spec.budget_micro_dollars}"
        case _:
            return "cancelled"


def describe(result: pb.RunResult) -> str:
    """How a run failed, for people."""
    name = pb.RunOutcome.Name(result.outcome).removeprefix("RUN_OUTCOME_").lower()
    told = f"{name.replace('_', ' ')} with exit code {result.exit_code}"
    return f"{told}: {result.detail}" if result.detail else told
