"""Keeping: what the retention lets go, and what stays whatever anybody says."""

from checkpoint_world import (
    JOB,
    PROJECT,
    Project,
    digest,
    finished,
    placed,
    record,
    retention,
    written,
)

from loom.decider import Code
from loom.v1 import checkpoint_pb2 as pb
from loom.v1 import common_pb2
from loom.v1 import scheduler_pb2 as scheduler
from loomos.checkpoint.state import due


def test_the_oldest_go_beyond_five():
    project = Project(placed())
    events = project.saves(1, 2, 3, 4, 5, 6)
    expired = events[1]
    assert (expired.checkpoint_id, expired.sha256) == (project.ids[1], digest(1))
    assert expired.reason == pb.EXPIRY_REASON_RETENTION
    assert not expired.files_shared
    assert project.kept() == {2, 3, 4, 5, 6}


def test_protected_ones_stay_and_do_not_count():
    project = Project(placed(), retention(2))
    project.saves(1)
    project.asks(pb.ProtectCheckpointRequest(checkpoint_id=project.ids[1])).accepted()
    project.saves(2, 3, 4)
    assert project.kept() == {1, 3, 4}
    delete = pb.DeleteCheckpointRequest(checkpoint_id=project.ids[1])
    assert "protected" in project.asks(delete).refused(Code.FAILED_PRECONDITION).message
    project.asks(pb.UnprotectCheckpointRequest(checkpoint_id=project.ids[1])).accepted()
    project.saves(5)
    assert project.kept() == {4, 5}


def test_the_best_by_the_policy_s_metric_stays():
    project = Project(placed(), retention(2, "loss", pb.METRIC_ORDER_LOWEST))
    project.saves(1, loss=0.9)
    project.saves(2, loss=0.1)
    project.saves(3, loss=0.5)
    project.saves(4, 5, loss=0.7)
    assert project.kept() == {2, 5}
    project.saves(6, loss=float("nan"))
    assert project.kept() == {2, 6}


def test_what_a_run_has_resumed_from_stays_while_it_runs():
    project = Project(placed(), retention(1))
    project.saves(1)
    project.hears(scheduler.JobPreempted(job_id=JOB, run=1), placed(2))
    resumed = scheduler.CheckpointRef(sha256=digest(1))
    project.hears(scheduler.JobStarted(job_id=JOB, run=2, resumed_from=resumed))
    project.saves(2, 3, run=2)
    assert project.kept() == {1, 3}
    delete = pb.DeleteCheckpointRequest(checkpoint_id=project.ids[1])
    assert "resumed from" in project.asks(delete).refused(Code.FAILED_PRECONDITION).message
    project.hears(scheduler.JobRequeued(job_id=JOB, run=2))
    project.saves(4, run=2)
    assert project.kept() == {4}


def test_content_that_a_job_wrote_again_is_its_place_to_resume_from():
    project = Project(placed(), retention(2))
    project.saves(1, 2)
    project.hears(written(1))
    project.saves(3, 4)
    assert project.kept() == {3, 4}
    project = Project(placed(), retention(2))
    project.saves(1, 2)
    project.hears(written(1))
    delete = pb.DeleteCheckpointRequest(checkpoint_id=project.ids[1])
    assert "resumes from" in project.asks(delete).refused(Code.FAILED_PRECONDITION).message


def test_files_that_another_run_s_checkpoint_has_too_stay():
    project = Project(placed(), retention(2))
    project.saves(1)
    project.hears(placed(2), written(2, run=2, word=1))
    project.asks(record(2, run=2, word=1), command_id="twin").accepted()
    project.hears(scheduler.JobPaused(job_id=JOB, run=2))
    (_, expired) = project.saves(3, run=2)
    assert expired.checkpoint_id == project.ids[1]
    assert expired.files_shared


def test_the_last_one_of_an_unfinished_job_cannot_be_deleted():
    project = Project(placed())
    project.saves(1)
    delete = pb.DeleteCheckpointRequest(checkpoint_id=project.ids[1])
    project.asks(delete).refused(Code.FAILED_PRECONDITION, "checkpoint_id")
    project.hears(finished())
    expired = project.asks(delete).one(pb.CheckpointExpired)
    assert expired.reason == pb.EXPIRY_REASON_REQUESTED
    assert project.asks(delete).found == []
    project.deleted(1)
    assert project.now.state.jobs == {}
    assert project.now.state.job_ids == {}


def test_a_failed_deletion_is_reported_and_tried_again():
    project = Project(placed())
    project.saves(1)
    project.hears(finished())
    delete = pb.DeleteCheckpointRequest(checkpoint_id=project.ids[1])
    project.asks(delete).accepted()
    report = pb.ReportCheckpointDeletedRequest(checkpoint_id=project.ids[1], problem="no right")
    assert project.asks(report).one(pb.CheckpointDeletionFailed).problem == "no right"
    assert project.asks(delete).one(pb.CheckpointExpired)


def test_a_new_policy_is_applied_by_ticks():
    project = Project(placed())
    project.saves(1, 2, 3)
    wish = pb.SetRetentionRequest(project_id=PROJECT, checkpoints_per_job_max=1)
    project.asks(wish).one(pb.RetentionSet)
    assert project.asks(wish).found == []
    assert due(project.now.state)
    applied = project.asks(common_pb2.TickRequest(shard_id=PROJECT)).one(pb.RetentionApplied)
    assert list(applied.job_ids) == [JOB]
    assert project.kept() == {3}
    assert due(project.now.state) is None


def test_a_policy_expires_many_in_several_ticks():
    project = Project(placed())
    project.ids = {n: f"checkpoint-{n}" for n in range(450)}
    for number, name in project.ids.items():
        event = pb.CheckpointRecorded(
            checkpoint_id=name, job_id=JOB, run=1, number=number, sha256=digest(number)
        )
        project.hears(event)
    project.hears(retention(1))
    ticks = 0
    while due(project.now.state):
        events = project.asks(common_pb2.TickRequest(shard_id=PROJECT)).found
        assert len(events) <= 201
        ticks += 1
    assert project.kept() == {449}
    assert ticks == 3
