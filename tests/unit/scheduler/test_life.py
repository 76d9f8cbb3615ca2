"""A job's twelve states, walked through with the test as its node."""

from cluster import NOW_US, Cluster, node, spec

from loom.decider import Code
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb


def running(cluster: Cluster, job: pb.JobSpec | None = None) -> str:
    job_id = cluster.submit(job or spec())
    cluster.settle()
    cluster.start(job_id)
    assert cluster.status(job_id) == "RUNNING"
    return job_id


def test_a_job_is_placed_granted_started_and_completed():
    cluster = Cluster(node("a"))
    job_id = cluster.submit(spec())
    assert cluster.status(job_id) == "PENDING"
    cluster.settle()
    assert cluster.status(job_id) == "STARTING"
    cluster.start(job_id)
    assert cluster.status(job_id) == "RUNNING"
    cluster.finish(job_id)
    assert cluster.status(job_id) == "COMPLETED"
    assert cluster.scheduler.nodes[node("a").node_id].claims == {}
    assert cluster.scheduler.contents == {}
    assert set(cluster.scheduler.open_jobs.values()) == {0}


def test_the_inputs_travel_to_the_node_and_are_kept_once():
    cluster = Cluster(node("a"))
    script = pb.InputFile(path="train.py", content=b"print(1)")
    first, second = cluster.submit(spec(inputs=[script])), cluster.submit(spec(inputs=[script]))
    assert len(cluster.scheduler.contents) == 1
    cluster.settle()
    for granted in cluster.of(rm.AllocationGranted):
        assert granted.run.spec.inputs[0].content == b"print(1)"
    cluster.tell(pb.CancelJobRequest(job_id=first))
    assert len(cluster.scheduler.contents) == 1
    cluster.tell(pb.CancelJobRequest(job_id=second))
    cluster.finish(first, 143)
    cluster.finish(second, 143)
    assert cluster.scheduler.contents == {}


def test_a_failed_run_is_retried_after_its_delay_and_then_fails():
    cluster = Cluster(node("a"))
    retry = pb.RetryPolicy(retries_max=2, delay_seconds=10, backoff_percent=200)
    job_id = running(cluster, spec(retry=retry))
    cluster.finish(job_id, 1)
    assert cluster.status(job_id) == "QUEUED"
    cluster.wait(9)
    assert cluster.status(job_id) == "QUEUED"
    cluster.wait(1)
    assert cluster.status(job_id) == "STARTING"
    cluster.start(job_id)
    cluster.finish(job_id, 1)
    cluster.wait(19)
    assert cluster.status(job_id) == "QUEUED"
    cluster.wait(1)
    cluster.start(job_id)
    cluster.finish(job_id, 1)
    assert cluster.status(job_id) == "FAILED"
    assert cluster.scheduler.jobs[job_id].run == 3


def test_a_job_that_never_ends_is_stopped_at_its_time_limit():
    cluster = Cluster(node("a"))
    job_id = running(cluster, spec(max_runtime_seconds=60))
    cluster.wait(59)
    assert cluster.status(job_id) == "RUNNING"
    cluster.wait(1)
    assert cluster.status(job_id) == "CHECKPOINTING"
    (stop,) = cluster.of(rm.AllocationReleaseRequested)
    assert stop.reason == pb.STOP_REASON_TIMED_OUT
    cluster.finish(job_id, 75)
    assert cluster.status(job_id) == "FAILED"


def test_runtime_counts_over_all_runs():
    cluster = Cluster(node("a"))
    job_id = running(cluster, spec(max_runtime_seconds=60))
    cluster.wait(40)
    cluster.tell(pb.PauseJobRequest(job_id=job_id))
    cluster.finish(job_id, 75)
    assert cluster.status(job_id) == "PAUSED"
    cluster.wait(1000)
    cluster.tell(pb.ResumeJobRequest(job_id=job_id))
    cluster.settle()
    assert cluster.of(rm.AllocationGranted)[-1].run.runtime_seconds_left == 20
    cluster.start(job_id)
    cluster.wait(20)
    assert cluster.status(job_id) == "CHECKPOINTING"


def test_pause_and_resume_go_on_from_the_checkpoint():
    cluster = Cluster(node("a"))
    job_id = running(cluster)
    cluster.checkpoint(job_id, 3)
    cluster.tell(pb.PauseJobRequest(job_id=job_id))
    assert cluster.status(job_id) == "CHECKPOINTING"
    cluster.checkpoint(job_id, 4)
    cluster.finish(job_id, 75)
    assert cluster.status(job_id) == "PAUSED"
    cluster.tell(pb.ResumeJobRequest(job_id=job_id))
    cluster.settle()
    assert cluster.of(rm.AllocationGranted)[-1].run.resume_from.epoch == 4
    cluster.start(job_id)
    assert cluster.of(pb.JobStarted)[-1].resumed_from.epoch == 4


def test_cancelling_a_waiting_job_ends_it_and_a_running_one_stops_it_first():
    cluster = Cluster(node("a", cpus=1))
    first, second = running(cluster), cluster.submit(spec())
    cluster.settle()
    assert cluster.status(second) == "QUEUED"
    cluster.tell(pb.CancelJobRequest(job_id=second))
    assert cluster.status(second) == "CANCELLED"
    cluster.tell(pb.CancelJobRequest(job_id=first))
    assert cluster.status(first) == "CHECKPOINTING"
    assert cluster.tell(pb.CancelJobRequest(job_id=first)) == []
    cluster.finish(first, 143, pb.RUN_OUTCOME_SIGNALLED)
    assert cluster.status(first) == "CANCELLED"
    cluster.refused(pb.CancelJobRequest(job_id=first), Code.FAILED_PRECONDITION)


def test_a_job_cancelled_between_placement_and_grant_is_stopped_when_granted():
    cluster = Cluster(node("a"))
    job_id = cluster.submit(spec())
    cluster.tell(pb.RunRoundRequest(cluster_id="local"))
    assert cluster.status(job_id) == "SCHEDULED"
    cluster.tell(pb.CancelJobRequest(job_id=job_id))
    cluster.settle()
    (stop,) = cluster.of(rm.AllocationReleaseRequested)
    assert stop.reason == pb.STOP_REASON_CANCELLED
    cluster.finish(job_id, 0, pb.RUN_OUTCOME_NOT_STARTED)
    assert cluster.status(job_id) == "CANCELLED"


def test_a_lost_node_s_job_goes_on_elsewhere_after_lease_and_margin():
    cluster = Cluster(node("a"), node("b"))
    job_id = running(cluster)
    cluster.checkpoint(job_id, 2)
    lost = cluster.held(job_id).node_id
    cluster.tell_books(rm.ReportNodeLostRequest(node_id=lost))
    cluster.settle()
    assert cluster.status(job_id) == "RUNNING"
    cluster.wait(3)
    assert cluster.status(job_id) == "STARTING"
    grant = cluster.of(rm.AllocationGranted)[-1]
    assert grant.node_id != lost
    assert grant.run.run == 2
    assert grant.run.resume_from.epoch == 2
    assert cluster.scheduler.jobs[job_id].retries == 0
    assert pb.JOB_STATUS_MIGRATING in [one.status for one in cluster.of(pb.JobRequeued)]


def test_a_job_may_say_that_losing_its_node_ends_it():
    cluster = Cluster(node("a"), node("b"))
    job_id = running(cluster, spec(retry=pb.RetryPolicy(fail_on_node_loss=True)))
    cluster.tell_books(rm.ReportNodeLostRequest(node_id=cluster.held(job_id).node_id))
    cluster.wait(3)
    assert cluster.status(job_id) == "FAILED"


def test_draining_a_node_moves_its_jobs():
    cluster = Cluster(node("a"), node("b"))
    job_id = running(cluster)
    held = cluster.held(job_id)
    cluster.tell_books(rm.DrainNodeRequest(node_id=held.node_id))
    cluster.settle()
    assert cluster.status(job_id) == "CHECKPOINTING"
    cluster.finish(job_id, 75)
    assert cluster.status(job_id) == "STARTING"
    assert cluster.held(job_id).node_id != held.node_id


def test_a_refused_grant_puts_the_job_back():
    cluster = Cluster(node("a"))
    job_id = cluster.submit(spec())
    cluster.tell_books(rm.CordonNodeRequest(node_id=node("a").node_id))
    # The scheduler has not heard of the cordon yet.
    cluster.scheduler.nodes[node("a").node_id].cordoned = False
    cluster.tell(pb.RunRoundRequest(cluster_id="local"))
    cluster.scheduler.nodes[node("a").node_id].cordoned = True
    cluster.settle()
    assert cluster.of(rm.AllocationRefused)[0].reason == rm.REFUSAL_REASON_NODE_NOT_READY
    assert cluster.status(job_id) == "QUEUED"
    cluster.tell_books(rm.UncordonNodeRequest(node_id=node("a").node_id))
    cluster.settle()
    assert cluster.status(job_id) == "STARTING"
    assert cluster.scheduler.jobs[job_id].run == 2


def test_a_budget_is_ended_by_a_service_only():
    cluster = Cluster(node("a"))
    job_id = running(cluster)
    exceeded = pb.CancelJobRequest(job_id=job_id, reason=pb.STOP_REASON_BUDGET_EXCEEDED)
    cluster.refused(exceeded, Code.INVALID_ARGUMENT)
    cluster.tell(exceeded, "service:marketplace")
    cluster.finish(job_id, 75)
    assert cluster.status(job_id) == "CANCELLED"
    assert cluster.of(pb.JobFinished)[-1].stop_reason == pb.STOP_REASON_BUDGET_EXCEEDED


def test_an_exit_with_zero_completes_whatever_the_job_was_told():
    cluster = Cluster(node("a"))
    job_id = running(cluster)
    cluster.tell(pb.PauseJobRequest(job_id=job_id))
    cluster.finish(job_id, 0)
    assert cluster.status(job_id) == "COMPLETED"


def test_facts_of_an_older_run_change_nothing():
    cluster = Cluster(node("a"))
    job_id = running(cluster, spec(retry=pb.RetryPolicy(retries_max=1)))
    old = cluster.held(job_id)
    cluster.finish(job_id, 1)
    cluster.start(job_id)
    stale = rm.AllocationReleased(
        allocation_id=old.allocation_id, job_id=job_id, run=1, node_id=old.node_id
    )
    from loomos.scheduler.evolve import evolve

    evolve(cluster.scheduler, stale)
    cluster.settle()
    assert cluster.status(job_id) == "RUNNING"
    assert cluster.scheduler.nodes[old.node_id].claims[job_id].run == 2


def test_progress_and_checkpoints_become_the_job_s_own_events():
    cluster = Cluster(node("a"))
    job_id = running(cluster)
    held = cluster.held(job_id)
    for epoch in (1, 2, 3):
        cluster.tell_books(
            rm.ReportAllocationProgressRequest(
                allocation_id=held.allocation_id,
                run=1,
                epoch=epoch,
                metrics=[pb.JobMetric(name="loss", value=1.0 / epoch, epoch=epoch)],
            )
        )
    cluster.settle()
    assert [one.epoch for one in cluster.of(pb.JobProgressed)] == [1, 2, 3]


def test_a_tick_with_nothing_to_do_decides_nothing():
    cluster = Cluster(node("a"))
    cluster.settle()
    assert cluster.tell(common_pb2.TickRequest(shard_id="local")) == []
    assert cluster.now_us == NOW_US
