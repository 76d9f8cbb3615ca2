"""Says in words what an event means for its job, and which other job or round it names."""

from typing import NamedTuple

from google.protobuf.message import Message

from loom.v1 import scheduler_pb2 as pb

__all__ = ["Told", "tell"]


class Told(NamedTuple):
    """An event in words."""

    status: pb.JobStatus
    """The job's status after it; UNSPECIFIED where it stays as it was."""
    text: str
    other_job_id: str = ""
    round_id: str = ""


UNCHANGED = pb.JOB_STATUS_UNSPECIFIED


def tell(event: Message) -> Told | None:
    """What an event of a job says; None for all others."""
    match event:
        case pb.JobSubmitted():
            told = f"submitted by {event.submitted_by} with priority {event.priority}"
            return Told(pb.JOB_STATUS_PENDING, told)
        case pb.JobPlaced():
            told = f"placed on {event.node_id} as run {event.run}: {event.detail}"
            return Told(pb.JOB_STATUS_SCHEDULED, told, "", event.round_id)
        case pb.JobUnplaced():
            blocking = next(iter(event.blocking_job_ids), "")
            told = f"waits, {word(pb.UnplacedReason.Name(event.reason))}: {event.detail}"
            return Told(pb.JOB_STATUS_QUEUED, told, blocking, event.round_id)
        case pb.JobPreemptionRequested():
            told = (
                f"told to make room for {event.preemptor_job_id}: priority"
                f" {event.preemptor_priority} over {event.priority};"
                f" {event.grace_period_seconds} s to checkpoint"
            )
            status = pb.JOB_STATUS_CHECKPOINTING
            return Told(status, told, event.preemptor_job_id, event.round_id)
        case pb.JobPreempted():
            told = f"displaced by {event.preemptor_job_id}; {resumes(event)}"
            return Told(pb.JOB_STATUS_PREEMPTED, told, event.preemptor_job_id, event.round_id)
        case pb.JobStopRequested():
            told = f"told to stop, {word(pb.StopReason.Name(event.reason))}"
            note = f": {event.note}" if event.note else ""
            return Told(pb.JOB_STATUS_CHECKPOINTING, told + note)
        case pb.JobAdmitted():
            gpus = f" with {', '.join(event.gpu_uuids)}" if event.gpu_uuids else ""
            return Told(pb.JOB_STATUS_STARTING, f"granted {event.allocation_id}{gpus}")
        case pb.JobStarted():
            told = f"runs on {event.node_id} (run {event.run}, isolation {event.isolation or '-'})"
            resumed = f", resumed from {event.resumed_from.path}"
            return Told(
                pb.JOB_STATUS_RUNNING, told + (resumed if event.HasField("resumed_from") else "")
            )
        case pb.JobProgressed():
            return Told(UNCHANGED, f"epoch {event.epoch}, step {event.step}")
        case pb.JobCheckpointed():
            return Told(UNCHANGED, f"checkpoint of epoch {event.checkpoint.epoch} is complete")
        case pb.JobRequeued():
            return Told(event.status, f"waits again: {event.detail}; {resumes(event)}")
        case pb.JobPaused():
            return Told(pb.JOB_STATUS_PAUSED, f"paused; {resumes(event)}")
        case pb.JobFinished():
            status = word(pb.JobStatus.Name(event.status))
            return Told(event.status, f"{status}: {event.detail}" if event.detail else status)
        case _:
            return None


def resumes(event: pb.JobPreempted | pb.JobRequeued | pb.JobPaused) -> str:
    """From where a job goes on."""
    if event.HasField("checkpoint"):
        return f"will resume from the checkpoint of epoch {event.checkpoint.epoch}"
    return "has no checkpoint, will begin anew"


def word(name: str) -> str:
    """`UNPLACED_REASON_NO_ROOM` → `no room`."""
    for prefix in ("UNPLACED_REASON_", "STOP_REASON_", "JOB_STATUS_"):
        name = name.removeprefix(prefix)
    return name.lower().replace("_", " ")
