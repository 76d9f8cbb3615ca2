"""Whatever happens to a job's checkpoints: prefixes fold, what is needed stays."""

from checkpoint_world import (
    JOB,
    PROJECT,
    finished,
    placed,
    record,
    written,
)
from hypothesis import given as supposing
from hypothesis import settings
from hypothesis import strategies as st
from tests.given import NOW_US

from loom.decider import Context, Rejected
from loom.v1 import checkpoint_pb2 as pb
from loom.v1 import common_pb2
from loom.v1 import scheduler_pb2 as scheduler
from loomos.checkpoint.decide import decide
from loomos.checkpoint.evolve import evolve
from loomos.checkpoint.state import initial, usable

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
