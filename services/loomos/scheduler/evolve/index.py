"""Keeps what decisions look up quickly: waiting groups, claims, use of quotas, timers, the digest.

1. `leave` before and `enter` after each change of a job: indexes and digest hold by themselves.
2. Nothing here depends on the order in which a dict or set was filled.
"""

import hashlib
import heapq
from bisect import bisect_left, insort
from datetime import UTC, datetime

from loom.v1 import scheduler_pb2 as pb
from loomos.scheduler.state import WAITING, Claim, Content, Job, Node, State, Timer, stale

__all__ = [
    "add_claim",
    "add_timer",
    "charge",
    "count",
    "drop_claim",
    "drop_timers",
    "enter",
    "forget_contents",
    "keep_contents",
    "leave",
    "mark_node",
    "month_of",
    "subjects",
]

DIGEST_MODULUS = 1 << 256


def enter(state: State, job: Job) -> None:
    """Put a job into the indexes that its fields call for."""
    if job.status in WAITING:
        insort(state.groups.setdefault(job.group_id, []), (job.submitted_at_us, job.job_id))
        # The next round tells the group's reason anew: the one who came has not been told.
        state.group_reasons.pop(job.group_id, None)
        state.dirty = True
    job.mark = hashed(
        (
            job.job_id,
            job.status,
            job.run,
            job.priority,
            job.group_id,
            job.submitted_at_us,
            job.node_id,
            job.allocation_id,
            job.started_at_us,
            job.runtime_us,
            job.preemptions,
            job.not_before_us,
            job.avoid_node_id,
            job.stop_reason,
        )
    )
    state.digest = (state.digest + job.mark) % DIGEST_MODULUS
    drop_timers(state)


def leave(state: State, job: Job) -> None:
    """Take a job out of the indexes; `enter` must follow."""
    if job.status in WAITING:
        group = state.groups[job.group_id]
        del group[bisect_left(group, (job.submitted_at_us, job.job_id))]
        if not group:
            del state.groups[job.group_id]
            state.group_reasons.pop(job.group_id, None)
    state.digest = (state.digest - job.mark) % DIGEST_MODULUS


def add_claim(state: State, claim: Claim) -> None:
    """A run takes a place; a node that was never heard of gets none."""
    node = state.nodes.get(claim.node_id)
    if node is not None:
        node.claims[claim.job_id] = claim
        mark_node(state, node)


def drop_claim(state: State, node_id: str, job_id: str, run: int) -> None:
    """A run's place is free again; a later run's is not."""
    node = state.nodes.get(node_id)
    if node is not None and job_id in node.claims and node.claims[job_id].run == run:
        del node.claims[job_id]
        mark_node(state, node)
        state.dirty = True


def mark_node(state: State, node: Node) -> None:
    """Bring the digest up to date with a node that changed."""
    claims = [
        (claim.job_id, claim.run, claim.gpu_uuids, claim.allocation_id)
        for _, claim in sorted(node.claims.items())
    ]
    mark = hashed(
        (
            node.node_id,
            node.capacity,
            sorted(node.labels.items()),
            sorted(node.gpus.items()),
            sorted(node.cordoned_gpus),
            node.ready,
            node.cordoned,
            claims,
        )
    )
    state.digest = (state.digest - node.mark + mark) % DIGEST_MODULUS
    node.mark = mark


def hashed(fields: tuple[object, ...]) -> int:
    """A hash of plain values, the same on every machine."""
    return int.from_bytes(hashlib.sha256(repr(fields).encode()).digest(), "big")


def add_timer(state: State, timer: Timer) -> None:
    """Something is due at a time."""
    heapq.heappush(state.timers, timer)
    drop_timers(state)


def drop_timers(state: State) -> None:
    """Take timers off the top that no longer matter."""
    while state.timers and stale(state, state.timers[0]):
        heapq.heappop(state.timers)


def subjects(submitted_by: str, project_id: str) -> tuple[str, str, str]:
    """Whose quotas a job counts against: user, project, organisation."""
    user = submitted_by.partition(":")[2]
    return (user, project_id, project_id.partition(".")[0])


def count(state: State, job: Job, sign: int) -> None:
    """Count an open job in, or out."""
    for subject in subjects(job.submitted_by, job.project_id):
        state.open_jobs[subject] = state.open_jobs.get(subject, 0) + sign
        gpu_milli = state.open_gpu_milli.get(subject, 0) + sign * job.need.amounts[2]
        state.open_gpu_milli[subject] = gpu_milli


def charge(state: State, job: Job, at_us: int) -> None:
    """Add the GPU time of a run that ended to the month in which it ended."""
    used = job.need.amounts[2] * max(0, at_us - job.admitted_at_us) // 1_000_000
    if used:
        for subject in subjects(job.submitted_by, job.project_id):
            key = (subject, month_of(at_us))
            state.gpu_milli_seconds[key] = state.gpu_milli_seconds.get(key, 0) + used


def month_of(at_us: int) -> int:
    """The calendar month (UTC) of a time, e.g. 202611."""
    at = datetime.fromtimestamp(at_us // 1_000_000, tz=UTC)
    return at.year * 100 + at.month


def keep_contents(state: State, spec: pb.JobSpec) -> None:
    """Keep the inputs of an open job."""
    for one in spec.inputs:
        state.contents.setdefault(one.sha256, Content(one.content)).uses += 1


def forget_contents(state: State, spec: pb.JobSpec) -> None:
    """Let go of the inputs of a job that ended."""
    for one in spec.inputs:
        content = state.contents[one.sha256]
        content.uses -= 1
        if content.uses == 0:
            del state.contents[one.sha256]
