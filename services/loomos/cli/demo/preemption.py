"""Chapter 5: an urgent job needs the one free place; the first makes room and loses nothing."""

from loomos.cli.demo import jobs
from loomos.cli.demo.stage import Stage, require

__all__ = ["play"]

STEP = 5
URGENT_SECONDS = "3"


def play(stage: Stage) -> None:
    """The urgent job displaces the first, which says why it waits and then goes on."""
    training = stage.watches["training"]
    jobs.reached(training, "job.checkpointed", 60)
    urgent = jobs.submit(
        stage,
        "urgent",
        jobs.spec(
            "urgent",
            "urgent.py",
            [URGENT_SECONDS],
            gpus=1,
            priority="PRIORITY_CLASS_URGENT",
            max_runtime_seconds=300,
        ),
    )
    preempted = jobs.reached(training, "job.preempted", 60)
    asked = jobs.reached(training, "job.preemption.requested", 1)
    stage.held(STEP, asked["text"], asked)
    stage.held(STEP, preempted["text"], preempted)
    explained(stage, asked["event_id"])
    end = jobs.finished(urgent, 60)
    stage.held(STEP, f"the urgent job ended: {end['text']}", end)
    resumed = jobs.reached(training, "job.started", 60, int(preempted["version"]))
    job = stage.researcher.call("GET", f"/api/v1/jobs/{training.job_id}")
    require(job["run"] >= 2, f"its run is {job['run']}")
    stage.held(STEP, resumed["text"], resumed)


def explained(stage: Stage, asked: str) -> None:
    """`why` names the job that displaced it, and the event."""
    training, urgent = stage.ids["training"], stage.ids["urgent"]
    why = stage.loomos("why", training, profile="researcher")
    require(why.returncode == 0, f"`loomos why` failed: {why.stderr.strip()}")
    require(urgent in why.stdout, f"`loomos why` does not name {urgent}: {why.stdout}")
    facts = stage.researcher.call("GET", f"/api/v1/jobs/{training}/why")["facts"]
    fact = next((one for one in facts if one["event_id"] == asked), None)
    require(fact is not None and fact["other_job_id"] == urgent, f"why says {facts}")
    assert fact is not None
    stage.held(STEP, f"`loomos why {training}`: {fact['text']}", fact)
