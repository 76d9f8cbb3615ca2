"""Only a strictly higher priority displaces, and a job is displaced only so often.

1. A victim's priority is strictly lower than that of the job that displaces it: chains of
   displacement descend, so there is no cycle.
2. A victim runs, may be preempted, has preemptions left, and has run for the cooldown since it
   resumed.
3. The fewest are told: lowest priority first, then the latest start; whoever turns out not to be
   needed stays.
"""

from loom.v1 import scheduler_pb2 as pb
from loomos.scheduler.plugins import Room
from loomos.scheduler.state import COOLDOWN_US, Job

__all__ = ["NAME", "victims"]

NAME: str = "strict-preemption/1"


def victims(job: Job, room: Room, jobs: dict[str, Job], at_us: int) -> list[Job] | None:
    """The jobs to tell on this node, in order; None if that would not do."""
    candidates = [
        jobs[job_id]
        for job_id in room.node.claims
        if job_id in jobs and job_id not in room.leaving and displaceable(jobs[job_id], job, at_us)
    ]
    candidates.sort(key=lambda one: (one.priority, -one.started_at_us, one.job_id))
    chosen: list[Job] = []
    trial = copy(room)
    for one in candidates:
        if trial.fits_soon(job.need):
            break
        trial.vacate(one.job_id)
        chosen.append(one)
    if not trial.fits_soon(job.need):
        return None
    return needed(job, room, chosen)


def displaceable(victim: Job, job: Job, at_us: int) -> bool:
    """True if the rules allow this job to be told to leave for that one."""
    return (
        victim.priority < job.priority
        and victim.status == pb.JOB_STATUS_RUNNING
        and not victim.spec.not_preemptible
        and victim.preemptions < victim.spec.preemptions_max
        and (victim.run == 1 or at_us - victim.started_at_us >= COOLDOWN_US)
    )


def needed(job: Job, room: Room, chosen: list[Job]) -> list[Job]:
    """Those without whom it would not do; the most important ones are let off first."""
    kept = list(chosen)
    for one in reversed(chosen):
        trial = copy(room)
        for other in kept:
            if other is not one:
                trial.vacate(other.job_id)
        if trial.fits_soon(job.need):
            kept.remove(one)
    return kept


def copy(room: Room) -> Room:
    """A room to try things in."""
    return Room(
        room.node,
        list(room.free),
        list(room.future),
        dict(room.free_gpus),
        dict(room.future_gpus),
        set(room.leaving),
    )
