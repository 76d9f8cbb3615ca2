"""Every rule of checkpoints: which events a command causes, or why it is refused."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected, Resource
from loom.v1 import checkpoint_pb2 as pb
from loom.v1 import common_pb2
from loomos.checkpoint.decide.keeping import (
    delete,
    deleted,
    protect,
    set_retention,
    sweep,
    unprotect,
)
from loomos.checkpoint.decide.recording import record
from loomos.checkpoint.decide.verifying import restore, verified, verify
from loomos.checkpoint.state import State

__all__ = ["decide", "resource"]


def resource(command: Message, state: State) -> Resource | None:
    """The project that a command touches; None where it names nothing known."""
    match command:
        case pb.SetRetentionRequest() | pb.RecordCheckpointRequest():
            return Resource("project", state.shard)
        case (
            pb.ProtectCheckpointRequest()
            | pb.UnprotectCheckpointRequest()
            | pb.VerifyCheckpointRequest()
            | pb.RequestRestoreRequest()
            | pb.DeleteCheckpointRequest()
            | pb.ReportCheckpointDeletedRequest()
            | pb.ReportCheckpointVerifiedRequest()
        ):
            known = command.checkpoint_id in state.job_ids
            return Resource("project", state.shard) if known else None
        case _:
            return None


def decide(command: Message, state: State, context: Context) -> list[Message]:
    """The events that a command causes, or Rejected."""
    match command:
        case pb.RecordCheckpointRequest():
            return record(command, state, context)
        case pb.ProtectCheckpointRequest():
            return protect(command, state)
        case pb.UnprotectCheckpointRequest():
            return unprotect(command, state)
        case pb.SetRetentionRequest():
            return set_retention(command, state)
        case pb.DeleteCheckpointRequest():
            return delete(command, state, context)
        case pb.ReportCheckpointDeletedRequest():
            return deleted(command, state)
        case pb.VerifyCheckpointRequest():
            return verify(command, state)
        case pb.RequestRestoreRequest():
            return restore(command, state, context)
        case pb.ReportCheckpointVerifiedRequest():
            return verified(command, state)
        case common_pb2.TickRequest():
            return sweep(state, context)
        case _:
            name = command.DESCRIPTOR.name
            raise Rejected(Code.INVALID_ARGUMENT, f"{name} is no command of checkpoint")
