"""Verifying: a checkpoint's files are read again, for its own sake or for who wants to take it."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import checkpoint_pb2 as pb
from loomos.checkpoint.decide.keeping import known
from loomos.checkpoint.state import READING, Checkpoint, State, Status

__all__ = ["restore", "verified", "verify"]

HOLD_SECONDS = 3600


def verify(command: pb.VerifyCheckpointRequest, state: State) -> list[Message]:
    """Have it read again; while that is under way the same wish changes nothing."""
    job_id, _, one = known(state, command.checkpoint_id)
    refuse_expired(one)
    if one.status in READING:
        return []
    return [
        pb.CheckpointVerificationRequested(
            checkpoint_id=one.id,
            project_id=state.shard,
            job_id=job_id,
            sha256=one.sha256,
            size_bytes=one.size_bytes,
        )
    ]


def restore(command: pb.RequestRestoreRequest, state: State, context: Context) -> list[Message]:
    """Have it read again and hold it for who takes it."""
    job_id, _, one = known(state, command.checkpoint_id)
    refuse_expired(one)
    seconds = command.hold_seconds or HOLD_SECONDS
    return [
        pb.CheckpointRestoreRequested(
            checkpoint_id=one.id,
            project_id=state.shard,
            job_id=job_id,
            sha256=one.sha256,
            size_bytes=one.size_bytes,
            held_until_us=max(one.held_until_us, context.at_us + seconds * 1_000_000),
        )
    ]


def verified(command: pb.ReportCheckpointVerifiedRequest, state: State) -> list[Message]:
    """What the reading found; a report that nothing waits for changes nothing."""
    _, _, one = known(state, command.checkpoint_id)
    if one.status not in READING:
        return []
    if command.problem:
        return [
            pb.CheckpointCorrupted(
                checkpoint_id=one.id, project_id=state.shard, problem=command.problem
            )
        ]
    return [pb.CheckpointVerified(checkpoint_id=one.id, project_id=state.shard)]


def refuse_expired(one: Checkpoint) -> None:
    """Files that are being deleted are not read."""
    if one.status == Status.EXPIRED:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"checkpoint {one.id} has expired: its files are being deleted",
            "checkpoint_id",
        )
