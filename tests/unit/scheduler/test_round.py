"""What a round decides: order, place, preemption, reasons."""

import pytest
from cluster import GIB, Cluster, node, spec

from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb


def started(cluster: Cluster, job: pb.JobSpec) -> str:
    job_id = cluster.submit(job)
    cluster.settle()
    cluster.start(job_id)
    return job_id


def reason(cluster: Cluster, job_id: str) -> int:
    (told,) = [one for one in cluster.of(pb.JobUnplaced) if one.job_id == job_id]
    return told.reason


def test_higher_priority_first_then_who_came_first():
    cluster = Cluster()
    low = cluster.submit(spec(priority=pb.PRIORITY_CLASS_LOW))
    first, second = cluster.submit(spec()), cluster.submit(spec())
    high = cluster.submit(spec(priority=pb.PRIORITY_CLASS_HIGH))
    cluster.settle()
    cluster.join(node("a", cpus=8))
    cluster.settle()
    placed = [one.job_id for one in cluster.of(pb.JobPlaced)]
    assert placed == [high, *sorted((first, second)), low]


def test_a_job_without_gpus_stays_off_gpu_nodes_and_the_fuller_node_is_taken():
    cluster = Cluster(node("a", gpus=2), node("b", cpus=8), node("c", cpus=2))
    cluster.submit(spec())
    cluster.settle()
    (placed,) = cluster.of(pb.JobPlaced)
    assert placed.node_id == node("c").node_id


def test_ties_go_to_the_smaller_node_id():
    cluster = Cluster(node("c"), node("a"), node("b"))
    cluster.submit(spec())
    cluster.settle()
    assert cluster.of(pb.JobPlaced)[0].node_id == node("a").node_id


@pytest.mark.parametrize(
    ("job", "nodes", "want"),
    [
        (spec(cpus=64), [node("a")], pb.UNPLACED_REASON_EXCEEDS_EVERY_NODE),
        (spec(gpus=1), [node("a")], pb.UNPLACED_REASON_EXCEEDS_EVERY_NODE),
        (spec(), [], pb.UNPLACED_REASON_NO_READY_NODE),
        (
            spec(node_selector={"zone": "x"}),
            [node("a", labels={"zone": "y"})],
            pb.UNPLACED_REASON_NO_MATCHING_NODE,
        ),
        (
            spec(gpus=1, gpu_model="H100"),
            [node("a", gpus=1)],
            pb.UNPLACED_REASON_NO_MATCHING_NODE,
        ),
        (
            spec(gpus=1, gpu_memory_bytes_min=80 * GIB),
            [node("a", gpus=1)],
            pb.UNPLACED_REASON_NO_MATCHING_NODE,
        ),
    ],
)
def test_a_job_that_waits_says_why(job: pb.JobSpec, nodes: list, want: int):
    cluster = Cluster(*nodes)
    job_id = cluster.submit(job)
    cluster.settle()
    assert cluster.status(job_id) == "QUEUED"
    assert reason(cluster, job_id) == want


def test_no_room_names_the_jobs_in_the_way():
    cluster = Cluster(node("a", cpus=1))
    holder = started(cluster, spec())
    job_id = cluster.submit(spec())
    cluster.settle()
    assert reason(cluster, job_id) == pb.UNPLACED_REASON_NO_ROOM
    assert cluster.of(pb.JobUnplaced)[-1].blocking_job_ids == [holder]
    cluster.finish(holder)
    assert cluster.status(job_id) == "STARTING"


def test_an_urgent_job_displaces_a_lesser_one_which_resumes_after_it():
    cluster = Cluster(node("a", cpus=2))
    victim = started(cluster, spec(cpus=2, grace_period_seconds=20))
    cluster.checkpoint(victim, 5)
    urgent = cluster.submit(spec(cpus=2, priority=pb.PRIORITY_CLASS_URGENT))
    cluster.settle()
    (asked,) = cluster.of(pb.JobPreemptionRequested)
    assert (asked.job_id, asked.preemptor_job_id) == (victim, urgent)
    assert asked.grace_period_seconds == 20
    assert cluster.status(victim) == "CHECKPOINTING"
    assert reason(cluster, urgent) == pb.UNPLACED_REASON_WAITING_FOR_PREEMPTED
    (order,) = cluster.of(rm.AllocationReleaseRequested)
    assert (order.grace_period_seconds, order.preemptor_job_id) == (20, urgent)
    cluster.finish(victim, 75)
    assert cluster.status(urgent) == "STARTING"
    assert cluster.status(victim) == "PREEMPTED" or cluster.status(victim) == "QUEUED"
    (left,) = cluster.of(pb.JobPreempted)
    assert (left.preemptor_job_id, left.round_id) == (urgent, asked.round_id)
    assert left.checkpoint.epoch == 5
    cluster.start(urgent)
    cluster.finish(urgent)
    assert cluster.status(victim) == "STARTING"
    assert cluster.of(rm.AllocationGranted)[-1].run.resume_from.epoch == 5


def test_equals_and_the_protected_are_never_displaced():
    cluster = Cluster(node("a", cpus=2))
    started(cluster, spec(cpus=1, not_preemptible=True, priority=pb.PRIORITY_CLASS_LOW))
    started(cluster, spec(cpus=1, priority=pb.PRIORITY_CLASS_URGENT))
    cluster.submit(spec(cpus=1, priority=pb.PRIORITY_CLASS_URGENT))
    cluster.settle()
    assert cluster.of(pb.JobPreemptionRequested) == []


def test_the_least_important_and_fewest_leave():
    cluster = Cluster(node("a", cpus=2), node("b", cpus=2))
    scavengers = [
        started(cluster, spec(cpus=1, priority=pb.PRIORITY_CLASS_SCAVENGER)) for _ in range(2)
    ]
    started(cluster, spec(cpus=2, priority=pb.PRIORITY_CLASS_LOW))
    cluster.submit(spec(cpus=1, priority=pb.PRIORITY_CLASS_HIGH))
    cluster.settle()
    (asked,) = cluster.of(pb.JobPreemptionRequested)
    assert asked.job_id in scavengers


def test_a_job_is_displaced_only_so_often_and_not_right_after_it_resumed():
    cluster = Cluster(node("a", cpus=1))
    victim = started(cluster, spec(preemptions_max=2))
    for turn in range(3):
        cluster.wait(60)
        urgent = cluster.submit(spec(priority=pb.PRIORITY_CLASS_URGENT))
        cluster.settle()
        if turn == 2:
            assert len(cluster.of(pb.JobPreemptionRequested)) == 2
            break
        cluster.finish(victim, 75)
        cluster.start(urgent)
        cluster.finish(urgent)
        cluster.start(victim)
        early = cluster.submit(spec(priority=pb.PRIORITY_CLASS_URGENT))
        cluster.settle()
        assert len(cluster.of(pb.JobPreemptionRequested)) == turn + 1
        cluster.tell(pb.CancelJobRequest(job_id=early))


def test_the_cooldown_s_end_is_a_timer_of_its_own():
    cluster = Cluster(node("a", cpus=1))
    victim = started(cluster, spec())
    first = cluster.submit(spec(priority=pb.PRIORITY_CLASS_URGENT))
    cluster.settle()
    cluster.finish(victim, 75)
    cluster.start(first)
    cluster.finish(first)
    cluster.start(victim)
    cluster.submit(spec(priority=pb.PRIORITY_CLASS_URGENT))
    cluster.wait(29)
    assert cluster.status(victim) == "RUNNING"
    cluster.wait(1)
    assert cluster.status(victim) == "CHECKPOINTING"


def test_room_kept_for_a_waiting_job_goes_to_nobody_of_lower_rank():
    cluster = Cluster(node("a", cpus=4))
    victim = started(cluster, spec(cpus=3))
    urgent = cluster.submit(spec(cpus=4, priority=pb.PRIORITY_CLASS_URGENT))
    small = cluster.submit(spec(cpus=1))
    cluster.settle()
    assert cluster.status(small) == "QUEUED"
    cluster.finish(victim, 75)
    assert cluster.status(urgent) == "STARTING"


def test_a_round_names_its_inputs_policy_code_and_state():
    cluster = Cluster(node("a"))
    cluster.submit(spec())
    cluster.settle()
    decided = cluster.of(pb.RoundDecided)[-1]
    assert decided.policy == "priority-fifo/1 best-fit/1 strict-preemption/1"
    assert len(decided.state_digest) == len(decided.code_digest) == 32


def test_a_dry_run_is_the_same_round_and_takes_nothing():
    cluster = Cluster(node("a", cpus=1))
    victim = started(cluster, spec())
    digest = cluster.scheduler.digest
    request = pb.DryRunJobRequest(project_id="acme.vision", spec=spec(cpus=9))
    (decided,) = cluster.tell(request)
    assert decided.answer.reason == pb.UNPLACED_REASON_EXCEEDS_EVERY_NODE
    request.spec.CopyFrom(spec(priority=pb.PRIORITY_CLASS_URGENT))
    (decided,) = cluster.tell(request)
    assert decided.answer.preempted_job_ids == [victim]
    assert not decided.answer.placeable
    assert cluster.scheduler.digest == digest
    assert cluster.status(victim) == "RUNNING"


def test_a_cordoned_gpu_takes_nothing_new():
    cluster = Cluster(node("a", gpus=2))
    sick = rm.GpuHealth(gpu_uuid="GPU-a0", xids=[79])
    cluster.tell_books(rm.ReportNodeHealthRequest(node_id=node("a").node_id, gpus=[sick]))
    job_id = cluster.submit(spec(gpus=1))
    more = cluster.submit(spec(gpus=1))
    cluster.settle()
    assert cluster.held(job_id if cluster.status(job_id) == "STARTING" else more).gpu_uuids == (
        "GPU-a1",
    )
    assert sorted((cluster.status(job_id), cluster.status(more))) == ["QUEUED", "STARTING"]


def test_many_alike_wait_as_one_group_and_a_full_round_is_followed_by_another():
    cluster = Cluster(node("a", cpus=300))
    cluster.books.nodes[node("a").node_id].capacity = (300_000, 300 * GIB, 0, 0)
    cluster.scheduler.nodes[node("a").node_id].capacity = (300_000, 300 * GIB, 0, 0)
    for _ in range(310):
        cluster.submit(spec())
    cluster.settle()
    statuses = [cluster.status(job_id) for job_id in cluster.scheduler.jobs]
    assert statuses.count("STARTING") == 300
    assert statuses.count("QUEUED") == 10
    assert len(cluster.scheduler.group_reasons) == 1
