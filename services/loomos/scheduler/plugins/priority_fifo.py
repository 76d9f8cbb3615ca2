"""Highest priority first, then who came first."""

from loomos.scheduler.state import Job

__all__ = ["NAME", "rank"]

NAME: str = "priority-fifo/1"


def rank(job: Job) -> tuple[int | str, ...]:
    """A job's place in the order."""
    return (-job.priority, job.submitted_at_us, job.job_id)
