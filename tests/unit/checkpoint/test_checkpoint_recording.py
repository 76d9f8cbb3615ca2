"""Recording: run and content once, in its place, of the current generation."""

from checkpoint_world import (
    JOB,
    PROJECT,
    Project,
    digest,
    finished,
    measured,
    placed,
    record,
    written,
)
from tests.given import NOW_US

from loom.decider import Code, Position, Recorded
from loom.v1 import checkpoint_pb2 as pb
from loomos.checkpoint.decide import resource
from loomos.checkpoint.evolve import METRICS_MAX
from loomos.checkpoint.react import react
from loomos.checkpoint.state import initial


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


def test_an_unknown_checkpoint_belongs_to_nobody():
    state = initial(PROJECT)
    assert resource(pb.DeleteCheckpointRequest(checkpoint_id="checkpoint-x-1"), state) is None


def test_a_job_that_left_nothing_is_forgotten():
    project = Project(placed(), measured(1, loss=1.0), finished())
    assert project.now.state == initial(PROJECT)
