"""Verifying and restoring, and what it means for the others."""

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
from tests.given import NOW_US

from loom.decider import Code
from loom.v1 import checkpoint_pb2 as pb
from loom.v1 import common_pb2
from loom.v1 import scheduler_pb2 as scheduler
from loomos.checkpoint.state import usable

DAY_US = 86_400_000_000


def test_verifying_ends_whole_or_corrupted():
    project = Project(placed())
    project.saves(1, 2)
    verify = pb.VerifyCheckpointRequest(checkpoint_id=project.ids[2])
    asked = project.asks(verify).one(pb.CheckpointVerificationRequested)
    assert (asked.job_id, asked.sha256, asked.size_bytes) == (JOB, digest(2), 10)
    assert project.asks(verify).found == []
    report = pb.ReportCheckpointVerifiedRequest(checkpoint_id=project.ids[2], problem="changed")
    project.asks(report).one(pb.CheckpointCorrupted)
    assert project.asks(report).found == []
    assert project.kept() == {1}
    # What was found corrupted does not push a good one out while it is read again.
    project.asks(verify).accepted()
    assert project.kept() == {1}
    whole = pb.ReportCheckpointVerifiedRequest(checkpoint_id=project.ids[2])
    project.asks(whole).one(pb.CheckpointVerified)
    assert project.kept() == {1, 2}


def test_a_corrupted_newest_one_leaves_the_newest_good_one_standing():
    project = Project(placed(), retention(1))
    project.saves(1)
    project.hears(
        scheduler.JobStarted(
            job_id=JOB, run=1, resumed_from=scheduler.CheckpointRef(sha256=digest(1))
        )
    )
    project.saves(2)
    project.asks(pb.VerifyCheckpointRequest(checkpoint_id=project.ids[2])).accepted()
    bad = pb.ReportCheckpointVerifiedRequest(checkpoint_id=project.ids[2], problem="changed")
    project.asks(bad).accepted()
    project.hears(finished())
    project.asks(common_pb2.TickRequest(shard_id=PROJECT)).accepted()
    assert project.kept() == {1}


def test_a_restore_holds_its_checkpoint_for_a_while():
    project = Project(placed(), retention(1))
    project.saves(1)
    restore = pb.RequestRestoreRequest(checkpoint_id=project.ids[1], hold_seconds=60)
    asked = project.asks(restore).one(pb.CheckpointRestoreRequested)
    assert asked.held_until_us == NOW_US + 60_000_000
    project.asks(pb.ReportCheckpointVerifiedRequest(checkpoint_id=project.ids[1])).accepted()
    project.saves(2, 3)
    assert project.kept() == {1, 3}
    project.hears(finished(), written(4), retention(1))
    project.asks(common_pb2.TickRequest(shard_id=PROJECT), at_us=NOW_US + DAY_US).accepted()
    assert project.kept() == {3}


def test_what_is_going_is_neither_verified_nor_protected():
    project = Project(placed(), retention(1))
    project.saves(1, 2)
    for command in (
        pb.VerifyCheckpointRequest(checkpoint_id=project.ids[1]),
        pb.RequestRestoreRequest(checkpoint_id=project.ids[1]),
        pb.ProtectCheckpointRequest(checkpoint_id=project.ids[1]),
    ):
        project.asks(command).refused(Code.FAILED_PRECONDITION, "checkpoint_id")


def test_what_an_incremental_one_is_built_on_stays():
    project = Project(placed(), retention(1))
    project.saves(1)
    incremental = record(2, type=pb.CHECKPOINT_TYPE_INCREMENTAL)
    project.hears(written(2)).asks(incremental, command_id="two").accepted()
    assert {one.number for one in usable(project.now.state.jobs[JOB])} == {1, 2}
