"""Folds the resource manager's events into its books. No rule, no check: an event is a fact."""

from google.protobuf.message import Message

from loom.v1 import resource_manager_pb2 as pb
from loomos.resource_manager.state import Allocation, Amounts, Node, State, amounts_of

__all__ = ["evolve"]


def evolve(state: State, event: Message) -> None:
    """Change the state by one event."""
    match event:
        case pb.NodeRegistered():
            registered(state, event)
        case pb.NodeConnected():
            node = state.nodes[event.node_id]
            node.session_id, node.lost, node.release_at_us = event.session_id, False, 0
        case pb.NodeLost():
            node = state.nodes[event.node_id]
            node.lost, node.release_at_us = True, event.release_at_us
        case pb.NodeCordoned():
            state.nodes[event.node_id].cordoned = True
        case pb.NodeUncordoned():
            node = state.nodes[event.node_id]
            node.cordoned = node.draining = False
        case pb.NodeDrainRequested():
            state.nodes[event.node_id].draining = True
        case pb.GpuCordoned():
            state.nodes[event.node_id].cordoned_gpus.add(event.gpu_uuid)
        case pb.GpuUncordoned():
            state.nodes[event.node_id].cordoned_gpus.discard(event.gpu_uuid)
        case pb.AllocationGranted():
            granted(state, event)
        case pb.AllocationStarted():
            allocation = state.allocations[event.allocation_id]
            allocation.started_at_us = event.at_us
            if allocation.status == pb.ALLOCATION_STATUS_GRANTED:
                allocation.status = pb.ALLOCATION_STATUS_ACTIVE
        case pb.AllocationReleaseRequested():
            allocation = state.allocations[event.allocation_id]
            allocation.status = pb.ALLOCATION_STATUS_RELEASING
            allocation.stop_reason = event.reason
        case pb.AllocationReleased():
            released(state, event)
        case _:
            pass


def registered(state: State, event: pb.NodeRegistered) -> None:
    """A node says what it has, at first or again; what it holds outlasts that."""
    node = state.nodes.get(event.node_id)
    gpus = {gpu.uuid: gpu for gpu in event.gpus}
    if node is None:
        state.nodes[event.node_id] = Node(event, amounts_of(event.capacity), gpus)
        return
    node.registered, node.capacity, node.gpus = event, amounts_of(event.capacity), gpus


def granted(state: State, event: pb.AllocationGranted) -> None:
    """A run holds a place."""
    run = event.run
    allocation = Allocation(
        allocation_id=event.allocation_id,
        node_id=event.node_id,
        job_id=run.job_id,
        run=run.run,
        project_id=run.project_id,
        amounts=amounts_of(run.spec.resources),
        gpu_uuids=tuple(event.gpu_uuids),
        grace_period_seconds=run.spec.grace_period_seconds,
        survive_disconnect=run.spec.survive_disconnect,
        granted_at_us=event.at_us,
    )
    node = state.nodes[event.node_id]
    node.used = added(node.used, allocation.amounts, 1)
    node.held_gpus.update(allocation.gpu_uuids)
    node.allocations[allocation.allocation_id] = allocation
    state.allocations[allocation.allocation_id] = allocation
    state.holders[allocation.job_id] = allocation.allocation_id
    state.runs[allocation.job_id] = allocation.run


def released(state: State, event: pb.AllocationReleased) -> None:
    """A place is free again."""
    allocation = state.allocations.pop(event.allocation_id)
    node = state.nodes[allocation.node_id]
    node.used = added(node.used, allocation.amounts, -1)
    node.held_gpus.difference_update(allocation.gpu_uuids)
    del node.allocations[allocation.allocation_id]
    del state.holders[allocation.job_id]


def added(left: Amounts, right: Amounts, sign: int) -> Amounts:
    """The sum, or the difference."""
    return (
        left[0] + sign * right[0],
        left[1] + sign * right[1],
        left[2] + sign * right[2],
        left[3] + sign * right[3],
    )
