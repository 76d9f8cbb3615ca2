"""Turns the scheduler's events into rows: jobs as they stand, their story, rounds and reasons."""

from typing import Any

from google.protobuf.message import Message

from loom.decider import Recorded, Statement
from loom.v1 import scheduler_pb2 as pb
from loomos.scheduler.project.story import tell

__all__ = ["project"]

SUBMITTED = """
INSERT INTO jobs (job_id, project_id, cluster_id, name, status, spec, priority, group_id,
    submitted_by, submitted_at_us, version, correlation_id)
VALUES (%s, %s, %s, %s, 1, %s, %s, %s, %s, %s, 0, %s)
"""
STORY = """
INSERT INTO job_events (job_id, version, project_id, event_id, event_type, causation_id, at_us,
    status, text, other_job_id, round_id, update, log_partition, log_offset)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
STATUS = "UPDATE jobs SET status = %s, version = %s WHERE job_id = %s"
ON_ITS_WAY = """
UPDATE jobs SET status = CASE WHEN status = 7 THEN 7 ELSE %s END, version = %s WHERE job_id = %s
"""
VERSION = "UPDATE jobs SET version = %s WHERE job_id = %s"
PLACED = """
UPDATE jobs SET run = %s, node_id = %s, reason = 0, reason_detail = '' WHERE job_id = %s
"""
UNPLACED = "UPDATE jobs SET reason = %s, reason_detail = %s WHERE job_id = %s"
ADMITTED = "UPDATE jobs SET allocation_id = %s, node_id = %s WHERE job_id = %s"
STARTED = """
UPDATE jobs SET isolation = %s,
    started_at_us = CASE WHEN started_at_us = 0 THEN %s ELSE started_at_us END
WHERE job_id = %s
"""
PROGRESSED = """
UPDATE jobs SET epoch = %s, step = %s, progress_basis_points = %s WHERE job_id = %s
"""
METRIC = """
INSERT INTO job_metrics (job_id, name, project_id, value, epoch, step)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (job_id, name) DO UPDATE SET
    value = excluded.value, epoch = excluded.epoch, step = excluded.step
"""
CHECKPOINTED = "UPDATE jobs SET checkpoint = %s WHERE job_id = %s"
RUN_ENDED = """
UPDATE jobs SET allocation_id = '', result = %s, reason_detail = %s,
    preemptions = preemptions + %s, retries = retries + %s
WHERE job_id = %s
"""
FINISHED = "UPDATE jobs SET finished_at_us = %s WHERE job_id = %s"
ROUND = """
INSERT INTO rounds (round_id, cluster_id, event_id, at_us, policy, jobs_placed, jobs_preempted,
    jobs_waiting)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
"""
DRY_RUN = "INSERT INTO dry_runs (dry_run_id, project_id, at_us, answer) VALUES (%s, %s, %s, %s)"
GROUP = """
INSERT INTO group_reasons (group_id, cluster_id, reason, detail, blocking_job_ids, event_id,
    causation_id, round_id, at_us)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (group_id) DO UPDATE SET
    reason = excluded.reason, detail = excluded.detail,
    blocking_job_ids = excluded.blocking_job_ids, event_id = excluded.event_id,
    causation_id = excluded.causation_id, round_id = excluded.round_id, at_us = excluded.at_us
"""
GROUP_JOBS = """
UPDATE jobs SET reason = %s, reason_detail = %s
WHERE group_id = %s AND status IN (1, 2, 8, 12)
"""


def project(record: Recorded) -> list[Statement]:
    """The statements that bring the read models up to an event."""
    event = record.event
    if isinstance(event, pb.RoundDecided):
        return round_rows(record, event)
    if isinstance(event, pb.DryRunDecided):
        stored = event.answer.SerializeToString(deterministic=True)
        row = (event.dry_run_id, event.project_id, event.at_us, stored)
        return [Statement(DRY_RUN, row)]
    told = tell(event)
    if told is None:
        return []
    job_id = record.stream
    statements = job_rows(record, event, job_id)
    update = pb.JobUpdate(
        event_id=record.id,
        event_type=record.type,
        at_us=record.at_us,
        status=told.status,
        run=getattr(event, "run", 0),
        text=told.text,
        version=record.version,
    )
    if isinstance(event, pb.JobProgressed):
        update.metrics.extend(event.metrics)
        update.epoch = event.epoch
        update.progress_basis_points = event.progress_basis_points
    parameters = (
        job_id,
        record.version,
        getattr(event, "project_id", ""),
        record.id,
        record.type,
        record.causation_id,
        record.at_us,
        told.status,
        told.text,
        told.other_job_id,
        told.round_id,
        update.SerializeToString(deterministic=True),
        record.position.partition,
        record.position.offset,
    )
    statements.append(Statement(STORY, parameters))
    if told.status in (pb.JOB_STATUS_STARTING, pb.JOB_STATUS_RUNNING):
        # A job that was told to stop meanwhile goes on stopping.
        statements.append(Statement(ON_ITS_WAY, (told.status, record.version, job_id)))
    elif told.status:
        statements.append(Statement(STATUS, (told.status, record.version, job_id)))
    else:
        statements.append(Statement(VERSION, (record.version, job_id)))
    return statements


def job_rows(record: Recorded, event: Message, job_id: str) -> list[Statement]:
    """What an event changes of its job, beside status and version."""
    match event:
        case pb.JobSubmitted():
            return [submitted(record, event)]
        case pb.JobPlaced():
            return [Statement(PLACED, (event.run, event.node_id, job_id))]
        case pb.JobUnplaced():
            return [Statement(UNPLACED, (event.reason, event.detail, job_id))]
        case pb.JobAdmitted():
            return [Statement(ADMITTED, (event.allocation_id, event.node_id, job_id))]
        case pb.JobStarted():
            return [Statement(STARTED, (event.isolation, event.at_us, job_id))]
        case pb.JobProgressed():
            return progressed(event)
        case pb.JobCheckpointed():
            stored = event.checkpoint.SerializeToString(deterministic=True)
            return [Statement(CHECKPOINTED, (stored, job_id))]
        case pb.JobPreempted():
            return [run_ended(event.result, "", 1, 0, job_id)]
        case pb.JobPaused():
            return [run_ended(event.result, "", 0, 0, job_id)]
        case pb.JobRequeued():
            return [run_ended(event.result, event.detail, 0, int(event.retry_counted), job_id)]
        case pb.JobFinished():
            return [
                run_ended(event.result, event.detail, 0, 0, job_id),
                Statement(FINISHED, (event.at_us, job_id)),
            ]
        case _:
            return []


def submitted(record: Recorded, event: pb.JobSubmitted) -> Statement:
    """The row of a new job; the content of its inputs stays in the log."""
    spec = pb.JobSpec()
    spec.CopyFrom(event.spec)
    for one in spec.inputs:
        one.ClearField("content")
    parameters: tuple[Any, ...] = (
        event.job_id,
        event.project_id,
        event.cluster_id,
        event.spec.name,
        spec.SerializeToString(deterministic=True),
        event.priority,
        event.group_id,
        event.submitted_by,
        event.submitted_at_us,
        record.correlation_id,
    )
    return Statement(SUBMITTED, parameters)


def progressed(event: pb.JobProgressed) -> list[Statement]:
    """How far a job is, and the latest value of each of its metrics."""
    parameters = (event.epoch, event.step, event.progress_basis_points, event.job_id)
    return [
        Statement(PROGRESSED, parameters),
        *(
            Statement(
                METRIC,
                (event.job_id, one.name, event.project_id, one.value, one.epoch, one.step),
            )
            for one in event.metrics
        ),
    ]


def run_ended(
    result: pb.RunResult, detail: str, preemptions: int, retries: int, job_id: str
) -> Statement:
    """A job's run is over; how it ended stays on the job."""
    stored = result.SerializeToString(deterministic=True)
    return Statement(RUN_ENDED, (stored, detail, preemptions, retries, job_id))


def round_rows(record: Recorded, event: pb.RoundDecided) -> list[Statement]:
    """A round, and the reasons that it changed."""
    parameters = (
        event.round_id,
        event.cluster_id,
        record.id,
        event.at_us,
        event.policy,
        len(event.placements),
        len(event.preempted_job_ids),
        event.jobs_waiting,
    )
    statements = [Statement(ROUND, parameters)]
    for group in event.unplaced:
        row = (
            group.group_id,
            event.cluster_id,
            group.reason,
            group.detail,
            list(group.blocking_job_ids),
            record.id,
            record.causation_id,
            event.round_id,
            event.at_us,
        )
        statements.append(Statement(GROUP, row))
        statements.append(Statement(GROUP_JOBS, (group.reason, group.detail, group.group_id)))
    return statements
