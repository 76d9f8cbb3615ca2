"""Every rule of nodes and allocations: which events a command causes, or why it is refused."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected, Resource
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as pb
from loomos.resource_manager.decide.allocation import (
    checkpointed,
    finished,
    grant,
    progressed,
    release,
    started,
)
from loomos.resource_manager.decide.node import (
    connect,
    cordon,
    drain,
    lose,
    register,
    release_lost,
    report_health,
    uncordon,
    uncordon_gpu,
)
from loomos.resource_manager.state import State

__all__ = ["decide", "resource"]


def resource(command: Message, state: State) -> Resource | None:
    """The node that a command touches; None where it names nothing known."""
    match command:
        case pb.RegisterNodeRequest() | pb.ConnectNodeRequest():
            return Resource("node", command.node_id)
        case (
            pb.ReportNodeLostRequest()
            | pb.ReportNodeHealthRequest()
            | pb.CordonNodeRequest()
            | pb.UncordonNodeRequest()
            | pb.DrainNodeRequest()
            | pb.UncordonGpuRequest()
        ):
            return Resource("node", command.node_id) if command.node_id in state.nodes else None
        case (
            pb.ReportAllocationStartedRequest()
            | pb.ReportAllocationProgressRequest()
            | pb.ReportAllocationCheckpointRequest()
            | pb.ReportAllocationFinishedRequest()
        ):
            allocation = state.allocations.get(command.allocation_id)
            return None if allocation is None else Resource("node", allocation.node_id)
        case _:
            return Resource("platform", "platform")


def decide(command: Message, state: State, context: Context) -> list[Message]:
    """The events that a command causes, or Rejected."""
    match command:
        case pb.RegisterNodeRequest():
            return register(command, state, context)
        case pb.ConnectNodeRequest():
            return connect(command, state, context)
        case pb.ReportNodeLostRequest():
            return lose(command, state, context)
        case pb.CordonNodeRequest():
            return cordon(command, state, context)
        case pb.UncordonNodeRequest():
            return uncordon(command, state, context)
        case pb.DrainNodeRequest():
            return drain(command, state, context)
        case pb.ReportNodeHealthRequest():
            return report_health(command, state, context)
        case pb.UncordonGpuRequest():
            return uncordon_gpu(command, state, context)
        case pb.GrantAllocationsRequest():
            return grant(command, state, context)
        case pb.ReleaseAllocationRequest():
            return release(command, state, context)
        case pb.ReportAllocationStartedRequest():
            return started(command, state, context)
        case pb.ReportAllocationProgressRequest():
            return progressed(command, state, context)
        case pb.ReportAllocationCheckpointRequest():
            return checkpointed(command, state, context)
        case pb.ReportAllocationFinishedRequest():
            return finished(command, state, context)
        case common_pb2.TickRequest():
            return release_lost(state, context)
        case _:
            name = command.DESCRIPTOR.name
            raise Rejected(Code.INVALID_ARGUMENT, f"{name} is no command of the resource manager")
