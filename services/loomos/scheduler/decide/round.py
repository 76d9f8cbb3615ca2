"""A scheduling round: who runs where, who makes room, and why everybody else waits.

1. A pure function of the folded state and the time given: the same state decides the same bytes.
2. Jobs of one group are alike, so a group is tried until one of it fails: a round costs
   O(groups · nodes + placements · nodes), however many jobs wait.
3. What a waiting job was promised on a node is kept for it during the round: nobody of lower rank
   takes it. A job for whom nobody can be asked to leave is passed by those who fit.
4. Every job that waits has a reason: its own JobUnplaced at first, its group's in RoundDecided
   whenever that changes.
"""

import hashlib
import heapq
import inspect
from collections import Counter
from dataclasses import dataclass, field

from google.protobuf.message import Message

from loom.decider import Context
from loom.v1 import scheduler_pb2 as pb
from loomos.scheduler import plugins
from loomos.scheduler.plugins import (
    Ordering,
    Placing,
    Preempting,
    Room,
    best_fit,
    open_room,
    priority_fifo,
    strict_preemption,
)
from loomos.scheduler.state import Job, Need, Node, State

__all__ = ["preview", "run_round"]

ORDERING: Ordering = priority_fifo
PLACING: Placing = best_fit
PREEMPTING: Preempting = strict_preemption
POLICY = f"{ORDERING.NAME} {PLACING.NAME} {PREEMPTING.NAME}"

PLACEMENTS_MAX = 256
UNPLACED_MAX = 256
BLOCKING_MAX = 8


@dataclass(slots=True)
class Round:
    """What one round has found so far."""

    rooms: list[Room]
    placed: list[tuple[Job, Room]] = field(default_factory=list)
    preempted: list[tuple[Job, Job]] = field(default_factory=list)
    """(who must leave, for whom)."""
    waiting: dict[str, pb.UnplacedGroup] = field(default_factory=dict)
    truncated: bool = False


def run_round(state: State, context: Context) -> list[Message]:
    """The decisions of a round, and last the round itself."""
    found = hold(state, context.at_us)
    round_id = context.new_id("round")
    events: list[Message] = [
        pb.JobPreemptionRequested(
            job_id=victim.job_id,
            run=victim.run,
            preemptor_job_id=job.job_id,
            preemptor_priority=job.priority,
            priority=victim.priority,
            grace_period_seconds=victim.spec.grace_period_seconds,
            allocation_id=victim.allocation_id,
            node_id=victim.node_id,
            round_id=round_id,
            at_us=context.at_us,
            project_id=victim.project_id,
        )
        for victim, job in found.preempted
    ]
    events.extend(
        pb.JobPlaced(
            job_id=job.job_id,
            run=job.run + 1,
            node_id=room.node.node_id,
            round_id=round_id,
            detail=f"of {len(found.rooms)} nodes, {room.node.hostname} fits best: {PLACING.NAME}",
            at_us=context.at_us,
            project_id=job.project_id,
        )
        for job, room in found.placed
    )
    events.extend(told_first(state, found, round_id, context))
    events.append(outcome(state, found, round_id, context))
    return events


def told_first(state: State, found: Round, round_id: str, context: Context) -> list[pb.JobUnplaced]:
    """The reasons of jobs that wait and have not been told before."""
    events: list[pb.JobUnplaced] = []
    placed = {job.job_id for job, _ in found.placed}
    for job_id in state.fresh:
        group = found.waiting.get(state.jobs[job_id].group_id)
        if group is None or job_id in placed:
            continue
        if len(events) == UNPLACED_MAX:
            found.truncated = True
            break
        events.append(
            pb.JobUnplaced(
                job_id=job_id,
                reason=group.reason,
                detail=group.detail,
                blocking_job_ids=group.blocking_job_ids,
                round_id=round_id,
                at_us=context.at_us,
                project_id=state.jobs[job_id].project_id,
            )
        )
    return events


def outcome(state: State, found: Round, round_id: str, context: Context) -> pb.RoundDecided:
    """The round's own event: what it read, by which code, and what came of it."""
    changed = [
        group
        for group_id, group in sorted(found.waiting.items())
        if state.group_reasons.get(group_id) != (group.reason, group.detail)
    ]
    if len(changed) > UNPLACED_MAX:
        found.truncated = True
    return pb.RoundDecided(
        round_id=round_id,
        cluster_id=state.shard,
        at_us=context.at_us,
        policy=POLICY,
        code_digest=CODE_DIGEST,
        state_digest=state.digest.to_bytes(32, "big"),
        inputs=[place for _, place in sorted(state.inputs.items())],
        placements=[
            pb.Placement(job_id=job.job_id, run=job.run + 1, node_id=room.node.node_id)
            for job, room in found.placed
        ],
        unplaced=changed[:UNPLACED_MAX],
        preempted_job_ids=[victim.job_id for victim, _ in found.preempted],
        jobs_waiting=sum(len(group) for group in state.groups.values()),
        nodes_considered=len(found.rooms),
        truncated=found.truncated,
    )


def hold(state: State, at_us: int, extra: Job | None = None) -> Round:
    """Look at the waiting jobs in order; `extra` waits with them, for a dry run."""
    found = Round([open_room(node) for _, node in sorted(state.nodes.items()) if usable(node)])
    queues, known = state.groups, state.jobs
    if extra is not None:
        place = (extra.submitted_at_us, extra.job_id)
        queues = {**queues, extra.group_id: [*queues.get(extra.group_id, ()), place]}
        known = {**known, extra.job_id: extra}
    heads = [(ORDERING.rank(known[queue[0][1]]), group_id, 0) for group_id, queue in queues.items()]
    heapq.heapify(heads)
    while heads:
        _, group_id, index = heapq.heappop(heads)
        queue = queues[group_id]
        job = known[queue[index][1]]
        if len(found.placed) >= PLACEMENTS_MAX:
            found.truncated = True
            told = waits(job, len(queue) - index, pb.UNPLACED_REASON_ROUND_FULL, "next round")
            found.waiting.setdefault(group_id, told)
            continue
        if job.not_before_us > at_us:
            told = waits(job, 1, pb.UNPLACED_REASON_RETRY_DELAY, "its retry's delay runs")
            found.waiting.setdefault(group_id, told)
        elif not try_job(job, len(queue) - index, state, found, at_us):
            continue
        if index + 1 < len(queue):
            heapq.heappush(heads, (ORDERING.rank(known[queue[index + 1][1]]), group_id, index + 1))
    return found


def try_job(job: Job, alike: int, state: State, found: Round, at_us: int) -> bool:
    """Place a job, or find who must leave for it, or say why it waits; True if it was placed."""
    suitable = [room for room in found.rooms if suits(room.node, job.need)]
    fitting = [room for room in suitable if room.fits_now(job.need)]
    if fitting:
        best = min(fitting, key=lambda room: PLACING.score(job, room))
        best.take(job.need)
        found.placed.append((job, best))
        return True
    soon = next((room for room in suitable if room.fits_soon(job.need)), None)
    if soon is None:
        soon = make_room(job, suitable, state, found, at_us)
    if soon is None:
        reason, detail, blocking = explain(job.need, suitable, state)
        found.waiting[job.group_id] = waits(job, alike, reason, detail, blocking)
        return False
    soon.keep(job.need)
    found.waiting[job.group_id] = waits(
        job,
        alike,
        pb.UNPLACED_REASON_WAITING_FOR_PREEMPTED,
        f"{len(soon.leaving)} jobs are leaving {soon.node.hostname}",
        sorted(soon.leaving)[:BLOCKING_MAX],
    )
    return False


def make_room(
    job: Job, suitable: list[Room], state: State, found: Round, at_us: int
) -> Room | None:
    """The node where the least important, fewest jobs must leave; they are told."""
    options = [
        (max(one.priority for one in victims), len(victims), room.node.node_id, room, victims)
        for room in suitable
        if (victims := PREEMPTING.victims(job, room, state.jobs, at_us))
    ]
    if not options:
        return None
    _, _, _, room, victims = min(options, key=lambda option: option[:3])
    for victim in victims:
        room.vacate(victim.job_id)
        found.preempted.append((victim, job))
    return room


def explain(
    need: Need, suitable: list[Room], state: State
) -> tuple[pb.UnplacedReason, str, list[str]]:
    """Why a job fits nowhere: the highest reason that applies, in words, and who is in its way."""
    lacks: Counter[str] = Counter()
    for node in state.nodes.values():
        if not large_enough(node, need):
            lacks["too small"] += 1
        elif not usable(node):
            lacks["not ready"] += 1
        elif not suits(node, need):
            lacks["without the labels or GPUs asked for"] += 1
        else:
            lacks["busy"] += 1
    told = ", ".join(f"{count} {lack}" for lack, count in sorted(lacks.items()))
    detail = f"{len(state.nodes)} nodes: {told}" if state.nodes else "no node has joined"
    if state.nodes and lacks["too small"] == len(state.nodes):
        return pb.UNPLACED_REASON_EXCEEDS_EVERY_NODE, detail, []
    if not any(usable(node) for node in state.nodes.values()):
        return pb.UNPLACED_REASON_NO_READY_NODE, detail, []
    if not lacks["busy"]:
        return pb.UNPLACED_REASON_NO_MATCHING_NODE, detail, []
    holders = {
        job_id for room in suitable if large_enough(room.node, need) for job_id in room.node.claims
    }
    return pb.UNPLACED_REASON_NO_ROOM, detail, sorted(holders)[:BLOCKING_MAX]


def preview(job: Job, state: State, at_us: int) -> pb.DryRun:
    """What a round would do with one more job."""
    found = hold(state, at_us, job)
    rank = ORDERING.rank(job)
    ahead = sum(
        1
        for group in state.groups.values()
        for _, job_id in group
        if ORDERING.rank(state.jobs[job_id]) < rank
    )
    answer = pb.DryRun(jobs_ahead=ahead)
    answer.preempted_job_ids.extend(
        victim.job_id for victim, preemptor in found.preempted if preemptor is job
    )
    for placed, room in found.placed:
        if placed is job:
            answer.placeable = True
            answer.node_id = room.node.node_id
            return answer
    group = found.waiting[job.group_id]
    answer.reason, answer.detail = group.reason, group.detail
    return answer


def waits(
    job: Job, count: int, reason: pb.UnplacedReason, detail: str, blocking: list[str] | None = None
) -> pb.UnplacedGroup:
    """Why a group waits."""
    return pb.UnplacedGroup(
        group_id=job.group_id,
        job_count=count,
        reason=reason,
        detail=detail,
        blocking_job_ids=blocking or [],
    )


def usable(node: Node) -> bool:
    """True if a node takes new work."""
    return node.ready and not node.cordoned


def suits(node: Node, need: Need) -> bool:
    """True if a node has the labels and enough healthy GPUs of the kind, taken or not."""
    labels = all(node.labels.get(name) == value for name, value in need.node_selector)
    return labels and gpus_of_kind(node, need, node.cordoned_gpus) >= need.gpus


def large_enough(node: Node, need: Need) -> bool:
    """True if a node could take a job were it empty and whole."""
    return (
        all(have >= want for have, want in zip(node.capacity, need.amounts, strict=True))
        and len(node.gpus) >= need.gpus
    )


def gpus_of_kind(node: Node, need: Need, without: set[str]) -> int:
    """How many GPUs of a node a job could use."""
    if not need.gpus:
        return 0
    return sum(
        1
        for uuid, (model, memory_bytes) in node.gpus.items()
        if uuid not in without
        and memory_bytes >= need.gpu_memory_bytes_min
        and need.gpu_model in ("", model)
    )


CODE_DIGEST = hashlib.sha256(
    "".join(
        inspect.getsource(module)
        for module in (plugins, priority_fifo, best_fit, strict_preemption)
    ).encode()
    + inspect.getsource(hold).encode()
    + inspect.getsource(try_job).encode()
    + inspect.getsource(make_room).encode()
).digest()
