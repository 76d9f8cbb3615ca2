"""A project to which one thing after another happens, for the tests of its rules."""

import hashlib

from tests.given import NOW_US, Given, given

import loomos.checkpoint
from loom.decider import Rejected, fold
from loom.v1 import checkpoint_pb2 as pb
from loom.v1 import scheduler_pb2 as scheduler
from loomos.checkpoint.evolve import evolve
from loomos.checkpoint.state import location, usable

PROJECT = "acme.vision"
JOB = "job-local-a"


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
