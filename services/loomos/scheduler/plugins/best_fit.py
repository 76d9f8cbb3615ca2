"""The node that is left with least: GPUs first, so that jobs without any stay off GPU nodes."""

from loomos.scheduler.plugins import Room
from loomos.scheduler.state import Job

__all__ = ["NAME", "score"]

NAME: str = "best-fit/1"


def score(job: Job, room: Room) -> tuple[int | str, ...]:
    """A node that failed this job before comes last; ties go to the smaller node id."""
    cpu_milli, memory_bytes, gpu_milli, _ = job.need.amounts
    return (
        int(room.node.node_id == job.avoid_node_id),
        room.free[2] - gpu_milli,
        share(room.free[0] - cpu_milli, room.node.capacity[0])
        + share(room.free[1] - memory_bytes, room.node.capacity[1]),
        room.node.node_id,
    )


def share(left: int, whole: int) -> int:
    """What is left, in ten-thousandths of the whole."""
    return left * 10_000 // whole if whole else 0
