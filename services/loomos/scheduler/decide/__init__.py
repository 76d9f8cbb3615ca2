"""Every rule of jobs and rounds: which events a command causes, or why it is refused."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected, Resource
from loom.v1 import common_pb2
from loom.v1 import scheduler_pb2 as pb
from loomos.scheduler.decide.job import cancel, dry_run, pause, resume, submit
from loomos.scheduler.decide.round import run_round
from loomos.scheduler.decide.settle import settle, time_out
from loomos.scheduler.state import State

__all__ = ["decide", "resource"]


def resource(command: Message, state: State) -> Resource | None:
    """The project that a command touches; None where it names no known job."""
    match command:
        case pb.SubmitJobRequest() | pb.DryRunJobRequest():
            return Resource("project", command.project_id)
        case pb.CancelJobRequest() | pb.PauseJobRequest() | pb.ResumeJobRequest():
            job = state.jobs.get(command.job_id)
            return None if job is None else Resource("project", job.project_id)
        case _:
            return Resource("platform", "platform")


def decide(command: Message, state: State, context: Context) -> list[Message]:
    """The events that a command causes, or Rejected."""
    match command:
        case pb.SubmitJobRequest():
            return submit(command, state, context)
        case pb.CancelJobRequest():
            return cancel(command, state, context)
        case pb.PauseJobRequest():
            return pause(command, state, context)
        case pb.ResumeJobRequest():
            return resume(command, state, context)
        case pb.DryRunJobRequest():
            return dry_run(command, state, context)
        case pb.RunRoundRequest():
            return run_round(state, context)
        case common_pb2.TickRequest():
            return tick(state, context)
        case _:
            name = command.DESCRIPTOR.name
            raise Rejected(Code.INVALID_ARGUMENT, f"{name} is no command of the scheduler")


def tick(state: State, context: Context) -> list[Message]:
    """Time passed: settle what was heard, else stop who ran too long, else hold a round."""
    if state.inbox:
        return settle(state, context)
    late = time_out(state, context)
    if late:
        return late
    woken = bool(state.timers) and state.timers[0][0] <= context.at_us
    return run_round(state, context) if state.dirty or woken else []
