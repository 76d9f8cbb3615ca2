"""Turns events into the read model's rows: checkpoints, what they measured, retentions."""

from loom.decider import Recorded, Statement
from loom.v1 import checkpoint_pb2 as pb

__all__ = ["project"]

CHECKPOINT = """
INSERT INTO checkpoints (checkpoint_id, project_id, job_id, number, status, protected,
    held_until_us, problem, recorded, recorded_at_us, changed_at_us, event_id)
VALUES (%s, %s, %s, %s, %s, false, 0, '', %s, %s, %s, %s)
"""
METRIC = "INSERT INTO checkpoint_metrics VALUES (%s, %s, %s, %s, %s)"
STATUS = """
UPDATE checkpoints SET status = %s, problem = %s, changed_at_us = %s WHERE checkpoint_id = %s
"""
READING = "UPDATE checkpoints SET status = %s, changed_at_us = %s WHERE checkpoint_id = %s"
HELD = "UPDATE checkpoints SET held_until_us = %s WHERE checkpoint_id = %s"
PROTECTED = "UPDATE checkpoints SET protected = %s, changed_at_us = %s WHERE checkpoint_id = %s"
RETENTION = """
INSERT INTO retentions VALUES (%s, %s, %s, %s) ON CONFLICT (project_id) DO UPDATE
SET checkpoints_per_job_max = excluded.checkpoints_per_job_max,
    best_metric = excluded.best_metric, best_order = excluded.best_order
"""


def project(record: Recorded) -> list[Statement]:
    """The statements that bring the tables from before the event to after it."""
    match record.event:
        case pb.CheckpointRecorded() as event:
            return recorded(event, record)
        case pb.CheckpointProtected() as event:
            return [Statement(PROTECTED, (True, record.at_us, event.checkpoint_id))]
        case pb.CheckpointUnprotected() as event:
            return [Statement(PROTECTED, (False, record.at_us, event.checkpoint_id))]
        case pb.CheckpointExpired():
            return changed(record, pb.CHECKPOINT_STATUS_EXPIRED)
        case pb.CheckpointDeleted():
            return changed(record, pb.CHECKPOINT_STATUS_DELETED)
        case pb.CheckpointDeletionFailed() as event:
            return changed(record, pb.CHECKPOINT_STATUS_EXPIRED, event.problem)
        case pb.CheckpointVerificationRequested():
            return [reading(record, pb.CHECKPOINT_STATUS_VERIFYING)]
        case pb.CheckpointRestoreRequested() as event:
            held = Statement(HELD, (event.held_until_us, event.checkpoint_id))
            return [reading(record, pb.CHECKPOINT_STATUS_RESTORING), held]
        case pb.CheckpointVerified():
            return changed(record, pb.CHECKPOINT_STATUS_VERIFIED)
        case pb.CheckpointCorrupted() as event:
            return changed(record, pb.CHECKPOINT_STATUS_CORRUPTED, event.problem)
        case pb.RetentionSet() as event:
            row = (
                event.project_id,
                event.checkpoints_per_job_max,
                event.best_metric,
                event.best_order,
            )
            return [Statement(RETENTION, row)]
        case _:
            return []


def recorded(event: pb.CheckpointRecorded, record: Recorded) -> list[Statement]:
    """The checkpoint's row, and one for each metric."""
    row = (
        event.checkpoint_id,
        event.project_id,
        event.job_id,
        event.number,
        pb.CHECKPOINT_STATUS_COMPLETED,
        event.SerializeToString(deterministic=True),
        record.at_us,
        record.at_us,
        record.id,
    )
    metrics = [
        Statement(
            METRIC,
            (event.checkpoint_id, event.project_id, event.job_id, metric.name, metric.value),
        )
        for metric in event.metrics
    ]
    return [Statement(CHECKPOINT, row), *metrics]


def changed(record: Recorded, status: pb.CheckpointStatus, problem: str = "") -> list[Statement]:
    """The checkpoint of the event's stream is in another state."""
    return [Statement(STATUS, (status, problem, record.at_us, record.stream))]


def reading(record: Recorded, status: pb.CheckpointStatus) -> Statement:
    """The checkpoint is read again; what was wrong with it stands until that is done."""
    return Statement(READING, (status, record.at_us, record.stream))
