"""Deletes the files of expired checkpoints and reads those again that are to be verified.

An effect may run twice for one event: files that are gone already are deleted, and a report that
nothing waits for changes nothing. What cannot be done is reported, not tried for ever: one bad
folder must not keep the others waiting.
"""

import asyncio
from pathlib import Path

from loom.decider import Command, Recorded
from loom.kit.config import Settings
from loom.kit.service import Shell
from loom.v1 import checkpoint_pb2 as pb
from loomos.checkpoint.plugins import Spoiled, Storage
from loomos.checkpoint.plugins.local import Local

__all__ = ["effect", "storage"]

PROBLEM_CHARACTERS_MAX = 300


def storage(settings: Settings) -> Storage:
    """The store that the node agents write to: LOOMOS_CHECKPOINT_STORE, or the home's."""
    given = settings.environ.get("LOOMOS_CHECKPOINT_STORE")
    return Local(Path(given) if given else settings.home / "artifacts")


async def effect(record: Recorded, shell: Shell) -> list[Command]:
    """What an event causes in the artifact store, reported back."""
    match record.event:
        case pb.CheckpointExpired() as event:
            return [Command(await delete(event, storage(shell.settings)))]
        case pb.CheckpointVerificationRequested() | pb.CheckpointRestoreRequested() as event:
            return [Command(await verify(event, storage(shell.settings)))]
        case _:
            return []


async def delete(event: pb.CheckpointExpired, store: Storage) -> pb.ReportCheckpointDeletedRequest:
    """Delete the files, unless another checkpoint has the same."""
    report = pb.ReportCheckpointDeletedRequest(checkpoint_id=event.checkpoint_id)
    if event.files_shared:
        report.files_kept = True
        return report
    try:
        deleted = await asyncio.to_thread(
            store.delete, event.job_id, event.sha256, event.completed_at_us
        )
        report.files_kept = not deleted
    except (Spoiled, OSError) as error:
        report.problem = told(error)
    return report


async def verify(
    event: pb.CheckpointVerificationRequested | pb.CheckpointRestoreRequested, store: Storage
) -> pb.ReportCheckpointVerifiedRequest:
    """Read the files again."""
    report = pb.ReportCheckpointVerifiedRequest(checkpoint_id=event.checkpoint_id)
    try:
        await asyncio.to_thread(store.verify, event.job_id, event.sha256, event.size_bytes)
    except (Spoiled, OSError) as error:
        report.problem = told(error)
    return report


def told(error: Exception) -> str:
    """The error for people, bounded."""
    text = str(error) or type(error).__name__
    return text[:PROBLEM_CHARACTERS_MAX]
