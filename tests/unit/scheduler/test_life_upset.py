"""A job's life when nodes, grants and facts do not go as planned."""

from cluster import NOW_US, Cluster, node, spec

from loom.decider import Code
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb


def test_a_lost_node_s_job_goes_on_elsewhere_after_lease_and_margin():
    cluster = Cluster(node("a"), node("b"))
    job_id = cluster.running()
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
    job_id = cluster.running(spec(retry=pb.RetryPolicy(fail_on_node_loss=True)))
    cluster.tell_books(rm.ReportNodeLostRequest(node_id=cluster.held(job_id).node_id))
    cluster.wait(3)
    assert cluster.status(job_id) == "FAILED"


def test_draining_a_node_moves_its_jobs():
    cluster = Cluster(node("a"), node("b"))
    job_id = cluster.running()
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
    job_id = cluster.running()
    exceeded = pb.CancelJobRequest(job_id=job_id, reason=pb.STOP_REASON_BUDGET_EXCEEDED)
    cluster.refused(exceeded, Code.INVALID_ARGUMENT)
    cluster.tell(exceeded, "service:marketplace")
    cluster.finish(job_id, 75)
    assert cluster.status(job_id) == "CANCELLED"
    assert cluster.of(pb.JobFinished)[-1].stop_reason == pb.STOP_REASON_BUDGET_EXCEEDED


def test_an_exit_with_zero_completes_whatever_the_job_was_told():
    cluster = Cluster(node("a"))
    job_id = cluster.running()
    cluster.tell(pb.PauseJobRequest(job_id=job_id))
    cluster.finish(job_id, 0)
    assert cluster.status(job_id) == "COMPLETED"


def test_facts_of_an_older_run_change_nothing():
    cluster = Cluster(node("a"))
    job_id = cluster.running(spec(retry=pb.RetryPolicy(retries_max=1)))
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
    job_id = cluster.running()
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
