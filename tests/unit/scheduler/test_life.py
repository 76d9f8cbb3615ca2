"""A job's twelve states, walked through with the test as its node."""

from cluster import Cluster, node, spec

from loom.decider import Code
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb


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
    job_id = cluster.running(spec(retry=retry))
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
    job_id = cluster.running(spec(max_runtime_seconds=60))
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
    job_id = cluster.running(spec(max_runtime_seconds=60))
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
    job_id = cluster.running()
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
    first, second = cluster.running(), cluster.submit(spec())
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
