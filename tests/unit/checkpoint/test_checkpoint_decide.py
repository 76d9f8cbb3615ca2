"""The rules of checkpoints: recording, generations, retention, protection, verifying."""

import hashlib

from hypothesis import given as supposing
from hypothesis import settings
from hypothesis import strategies as st
from tests.given import NOW_US, Given, given

import loomos.checkpoint
from loom.decider import Code, Context, Position, Recorded, Rejected, fold
from loom.v1 import checkpoint_pb2 as pb
from loom.v1 import common_pb2
from loom.v1 import scheduler_pb2 as scheduler
from loomos.checkpoint.decide import decide, resource
from loomos.checkpoint.evolve import METRICS_MAX, evolve
from loomos.checkpoint.react import react
from loomos.checkpoint.state import due, initial, location, usable

PROJECT = "acme.vision"
JOB = "job-local-a"
DAY_US = 86_400_000_000


def digest(word: object) -> bytes:
    return hashlib.sha256(str(word).encode()).digest()


def placed(run: int = 1):
    return scheduler.JobPlaced(job_id=JOB, run=run, project_id=PROJECT)


def measured(epoch: int, **values: float):
    metrics = [
        scheduler.JobMetric(name=name, value=value, epoch=epoch) for name, value in values.items()
    ]
    return scheduler.JobProgressed(job_id=JOB, run=1, epoch=epoch, metrics=metrics)


def written(epoch: int, run: int = 1, word: object = None, **changed):
    sha256 = digest(epoch if word is None else word)
    ref = scheduler.CheckpointRef(
        path=location(JOB, sha256), sha256=sha256, size_bytes=10, epoch=epoch, step=epoch, run=run
    )
    ref.MergeFrom(scheduler.CheckpointRef(**changed))
    return scheduler.JobCheckpointed(
        job_id=JOB, run=run, checkpoint=ref, at_us=NOW_US + epoch, project_id=PROJECT
    )


def finished():
    return scheduler.JobFinished(job_id=JOB, run=1, project_id=PROJECT)


def record(epoch: int, run: int = 1, word: object = None, **changed):
    sha256 = digest(epoch if word is None else word)
    fields = {
        "job_id": JOB, "project_id": PROJECT, "run": run, "sha256": sha256,
        "path": location(JOB, sha256), "source_event_id": "e",
    }  # fmt: skip
    return pb.RecordCheckpointRequest(**(fields | changed))


def retention(most: int, metric: str = "", order: int = pb.METRIC_ORDER_HIGHEST):
    return pb.RetentionSet(
        project_id=PROJECT, checkpoints_per_job_max=most, best_metric=metric, best_order=order
    )


class Project:
    """A project to which one thing after another happens; each decision is checked as it is."""

    def __init__(self, *heard):
        self.now: Given = given(loomos.checkpoint, *heard, shard=PROJECT)
        self.ids: dict[int, str] = {}

    def hears(self, *events) -> "Project":
        fold(evolve, self.now.state, events)
        return self

    def saves(self, *epochs: int, run: int = 1, **metrics: float) -> list:
        """Checkpoints of these epochs are heard of and recorded; the last command's events."""
        events: list = []
        for epoch in epochs:
            outcome = self.hears(measured(epoch, **metrics), written(epoch, run)).asks(
                record(epoch, run), command_id=f"c-{epoch}-{run}"
            )
            events = list(outcome.found)
            self.ids[epoch] = events[0].checkpoint_id
        return events

    def asks(self, command, **more):
        """A command; what it comes to has happened unless it is refused."""
        outcome = self.now.when(command, **more)
        if not isinstance(outcome.found, Rejected):
            self.now = outcome.accepted()
        return outcome

    def deleted(self, epoch: int) -> None:
        self.asks(pb.ReportCheckpointDeletedRequest(checkpoint_id=self.ids[epoch])).accepted()

    def kept(self) -> set[int]:
        job = self.now.state.jobs.get(JOB)
        named = {name: epoch for epoch, name in self.ids.items()}
        return {named[one.id] for one in usable(job)} if job else set()


def test_what_a_run_wrote_is_recorded_with_what_it_measured():
    project = Project(placed(), measured(3, loss=0.5, accuracy=0.9), measured(2, old=1.0))
    project.hears(written(3, node_id="node-local-a"))
    event = project.asks(record(3)).one(pb.CheckpointRecorded)
    assert [(metric.name, metric.value) for metric in event.metrics] == [
        ("accuracy", 0.9),
        ("loss", 0.5),
    ]
    assert (event.number, event.parent_id, event.node_id) == (1, "", "node-local-a")
    assert event.path == f"{JOB}/{digest(3).hex()}"
    assert event.type == pb.CHECKPOINT_TYPE_FULL
    following = project.saves(4)[0]
    assert (following.number, following.parent_id) == (2, event.checkpoint_id)


def test_a_heard_checkpoint_asks_to_be_recorded():
    event = written(3)
    cause = Recorded(
        event, "job.checkpointed", "e", JOB, 1, "local", Position("", 0, 0), NOW_US, "", "", "", ""
    )
    (command,) = react(cause, initial(PROJECT))
    assert command.request == record(3)


def test_the_same_run_and_content_is_recorded_once():
    project = Project(placed())
    project.saves(1)
    assert project.hears(written(1)).asks(record(1), command_id="again").found == []
    assert project.now.state.jobs[JOB].pending == {}
    again = project.hears(placed(2), written(1, run=2)).asks(record(1, run=2), command_id="other")
    assert again.one(pb.CheckpointRecorded).number == 2


def test_an_older_generation_is_refused():
    project = Project(placed(1), placed(2), written(1, run=1))
    refusal = project.asks(record(1, run=1)).refused(Code.FAILED_PRECONDITION, "run")
    assert "generation is 2" in refusal.message


def test_a_checkpoint_heard_in_time_is_recorded_after_its_run_has_ended():
    project = Project(placed(1), written(1), placed(2))
    assert project.asks(record(1)).one(pb.CheckpointRecorded).run == 1


def test_a_path_that_is_not_the_job_s_own_is_refused():
    path = f"{JOB}/../job-local-b/{digest(1).hex()}"
    project = Project(placed(), written(1, path=path))
    project.asks(record(1, path=path)).refused(Code.INVALID_ARGUMENT, "path")


def test_what_was_not_heard_of_is_refused():
    Project().asks(record(1)).refused(Code.FAILED_PRECONDITION, "job_id")


def test_a_job_cannot_fill_the_memory_with_names():
    project = Project(placed())
    for start in range(0, 3 * METRICS_MAX, 100):
        project.hears(measured(1, **{f"m{n}": 1.0 for n in range(start, start + 100)}))
    assert len(project.now.state.jobs[JOB].metrics) == METRICS_MAX


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


def test_an_unknown_checkpoint_belongs_to_nobody():
    state = initial(PROJECT)
    assert resource(pb.DeleteCheckpointRequest(checkpoint_id="checkpoint-x-1"), state) is None


def test_a_job_that_left_nothing_is_forgotten():
    project = Project(placed(), measured(1, loss=1.0), finished())
    assert project.now.state == initial(PROJECT)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["place", "save", "save", "save", "twin", "stop", "finish", "protect", "delete",
             "verify", "restore", "whole", "spoiled", "gone", "keep", "tick"]
        ),
        st.integers(0, 7),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@supposing(STEPS)
def test_whatever_happens_prefixes_fold_and_the_newest_good_one_stays(steps):
    state, log = initial(PROJECT), []
    run, at_us = 1, NOW_US

    def happen(*events):
        for event in events:
            evolve(state, event)
            log.append(event)

    def ask(command):
        try:
            found = decide(command, state, Context(f"c{at_us}", at_us, "service:x", PROJECT))
        except Rejected:
            return
        happen(*found)

    happen(placed(run))
    for kind, number in steps:
        at_us += 1
        ids = sorted(state.job_ids)
        one = ids[number % len(ids)] if ids else "checkpoint-acme.vision-none"
        match kind:
            case "place":
                run += 1
                happen(placed(run))
            case "save" | "twin" if not (JOB in state.jobs and state.jobs[JOB].ended):
                word = number if kind == "twin" else at_us
                happen(written(number, run, word))
                ask(record(number, run, word))
            case "stop":
                happen(scheduler.JobRequeued(job_id=JOB, run=run))
            case "finish":
                happen(finished())
            case "protect":
                ask(pb.ProtectCheckpointRequest(checkpoint_id=one))
            case "delete":
                ask(pb.DeleteCheckpointRequest(checkpoint_id=one))
            case "verify":
                ask(pb.VerifyCheckpointRequest(checkpoint_id=one))
            case "restore":
                ask(pb.RequestRestoreRequest(checkpoint_id=one, hold_seconds=1))
            case "whole":
                ask(pb.ReportCheckpointVerifiedRequest(checkpoint_id=one))
            case "spoiled":
                ask(pb.ReportCheckpointVerifiedRequest(checkpoint_id=one, problem="x"))
            case "gone":
                ask(pb.ReportCheckpointDeletedRequest(checkpoint_id=one))
            case "keep":
                ask(pb.SetRetentionRequest(project_id=PROJECT, checkpoints_per_job_max=number + 1))
            case "tick":
                ask(common_pb2.TickRequest(shard_id=PROJECT))
    again = initial(PROJECT)
    for event in log:
        if isinstance(event, pb.CheckpointExpired):
            job = again.jobs[JOB]
            assert event.sha256 != job.resume_sha256 or job.ended
            assert not job.checkpoints[event.checkpoint_id].protected
            if event.reason == pb.EXPIRY_REASON_RETENTION:
                assert event.checkpoint_id != usable(job)[-1].id
        evolve(again, event)
    assert again == state
