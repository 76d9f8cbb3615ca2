"""Whatever happens to a cluster: rounds repeat, prefixes fold, preemption has no cycle."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

from cluster import Cluster, node, spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb
from loomos.scheduler.evolve import evolve
from loomos.scheduler.state import WAITING, initial

PRIORITIES = list(range(1, 8))
KINDS = ["submit", "submit", "start", "start", "start", "finish", "ask", "node", "wait"]
seeds = st.integers(min_value=0, max_value=2**32 - 1)
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def live(seed: int, steps: int = 60) -> Cluster:
    """A cluster to which a seeded random life has happened."""
    dice = random.Random(seed)
    cluster = Cluster(node("a", cpus=3), node("b", cpus=2, gpus=2), node("c", cpus=4, gpus=1))
    for _ in range(steps):
        step(cluster, dice)
    return cluster


def step(cluster: Cluster, dice: random.Random) -> None:
    """One thing happens: somebody asks, a run reports, a node goes or comes, time passes."""
    jobs = sorted(cluster.scheduler.jobs)
    held = sorted(cluster.books.holders)
    nodes = sorted(cluster.books.nodes)
    match dice.choice(KINDS):
        case "submit":
            cluster.submit(
                spec(
                    cpus=dice.randint(1, 4),
                    gpus=dice.choice([0, 0, 1, 2]),
                    priority=dice.choice(PRIORITIES),
                    not_preemptible=dice.random() < 0.2,
                    retry=pb.RetryPolicy(retries_max=1, delay_seconds=dice.choice([0, 5])),
                )
            )
        case "start" if held:
            for job_id in dice.sample(held, min(3, len(held))):
                cluster.start(job_id)
        case "finish" if held:
            cluster.finish(dice.choice(held), dice.choice([0, 0, 1, 75]))
        case "ask" if jobs:
            job = cluster.scheduler.jobs[dice.choice(jobs)]
            if job.status in WAITING or (
                job.status == pb.JOB_STATUS_RUNNING and not job.stop_reason
            ):
                ask = dice.choice([pb.CancelJobRequest, pb.PauseJobRequest])
                cluster.tell(ask(job_id=job.job_id))
            elif job.status == pb.JOB_STATUS_PAUSED:
                cluster.tell(pb.ResumeJobRequest(job_id=job.job_id))
        case "node":
            node_id = dice.choice(nodes)
            if dice.random() < 0.5:
                cluster.tell_books(rm.ReportNodeLostRequest(node_id=node_id))
            else:
                cluster.connect(
                    node_id,
                    *(
                        rm.RunState(allocation_id=one.allocation_id, job_id=one.job_id, run=one.run)
                        for one in cluster.books.nodes[node_id].allocations.values()
                    ),
                )
        case "wait":
            cluster.wait(dice.choice([1, 10, 40]))
        case _:
            pass
    cluster.settle()


@few
@given(seeds)
def test_two_folds_of_one_log_are_one_state_and_every_prefix_folds(seed: int):
    """The heard events are interleaved exactly as the live scheduler heard them."""
    cluster = live(seed, steps=30)
    again = initial("local")
    for event in cluster.heard:
        evolve(again, event)
        assert again.digest == sum_of_marks(again)
    assert again == cluster.scheduler


def sum_of_marks(state) -> int:
    marks = [job.mark for job in state.jobs.values()]
    marks += [one.mark for one in state.nodes.values()]
    return sum(marks) % (1 << 256)


@few
@given(seeds)
def test_who_displaces_is_always_strictly_more_important(seed: int):
    cluster = live(seed)
    for asked in cluster.of(pb.JobPreemptionRequested):
        assert asked.preemptor_priority > asked.priority
    displaced_by: dict[str, set[str]] = {}
    for left in cluster.of(pb.JobPreempted):
        displaced_by.setdefault(left.job_id, set()).add(left.preemptor_job_id)
    for victim in displaced_by:
        assert victim not in ancestors(victim, displaced_by, set())
    for job in cluster.scheduler.jobs.values():
        assert job.preemptions <= job.spec.preemptions_max


def ancestors(job_id: str, displaced_by: dict[str, set[str]], seen: set[str]) -> set[str]:
    for other in displaced_by.get(job_id, ()):
        if other not in seen:
            seen.add(other)
            ancestors(other, displaced_by, seen)
    return seen


@few
@given(seeds)
def test_indexes_agree_with_the_jobs_and_every_waiting_job_has_a_reason(seed: int):
    state = live(seed).scheduler
    waiting = sorted(job.job_id for job in state.jobs.values() if job.status in WAITING)
    assert sorted(job_id for group in state.groups.values() for _, job_id in group) == waiting
    for job_id in waiting:
        job = state.jobs[job_id]
        assert job.status != pb.JOB_STATUS_PENDING
        assert job.group_id in state.group_reasons
    used = {digest for job in state.jobs.values() for digest in digests(job)}
    assert set(state.contents) == used


def digests(job) -> list[bytes]:
    ended = (pb.JOB_STATUS_COMPLETED, pb.JOB_STATUS_FAILED, pb.JOB_STATUS_CANCELLED)
    return [] if job.status in ended else [one.sha256 for one in job.spec.inputs]


def fingerprint(seed: int) -> str:
    """Digest of all bytes that both services wrote."""
    cluster = live(seed, steps=40)
    whole = hashlib.sha256()
    for event in (*cluster.jobs_log, *cluster.books_log):
        whole.update(event.SerializeToString(deterministic=True))
    return whole.hexdigest()


def test_decisions_are_the_same_bytes_under_every_hash_seed():
    found = {fingerprint(7)}
    for hash_seed in ("0", "1", "4242"):
        code = "import test_scheduler; print(test_scheduler.fingerprint(7))"
        here = Path(__file__).parent
        path = os.pathsep.join((str(here), str(here.parent)))
        made = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(made.stdout.strip())
    assert len(found) == 1
