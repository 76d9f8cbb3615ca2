"""What nodes have, whether they take work, and what becomes of their runs when they come and go.

1. A node may not register less than its live allocations hold, nor a GPU that another node has.
2. A session compares what a node runs with the books: what should run and does not is started or
   given up, what runs and should not is stopped.
3. A lost node's places stay held until the margin after its lease has passed; those of jobs that
   survive a disconnect until the node is back.
4. Health rules cordon a GPU and never stop what runs on it.
"""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import resource_manager_pb2 as pb
from loom.v1 import scheduler_pb2 as jobs
from loomos.resource_manager.decide.allocation import release_requested, released
from loomos.resource_manager.state import (
    LEASE_SECONDS,
    RELEASE_MARGIN_US,
    Allocation,
    Node,
    State,
    amounts_of,
)

__all__ = [
    "connect",
    "cordon",
    "drain",
    "lose",
    "register",
    "release_lost",
    "report_health",
    "uncordon",
    "uncordon_gpu",
]

# XIDs that speak of the device itself; others (13, 31, 43, 45 …) are the application's own faults.
XIDS_FATAL = frozenset({48, 62, 64, 74, 79, 92, 95, 109, 110, 119, 120, 136, 140, 143})
TEMPERATURE_CELSIUS_MAX = 95
RELEASED_MAX = 256


def register(command: pb.RegisterNodeRequest, state: State, context: Context) -> list[Message]:
    """A node says what it has; the same again changes nothing."""
    check_gpus(command, state)
    event = pb.NodeRegistered(
        node_id=command.node_id,
        cluster_id=state.shard,
        hostname=command.hostname,
        capacity=command.capacity,
        gpus=sorted(command.gpus, key=lambda gpu: (gpu.index, gpu.uuid)),
        labels=command.labels,
        lease_seconds=command.lease_seconds or LEASE_SECONDS,
        agent_version=command.agent_version,
        at_us=context.at_us,
    )
    node = state.nodes.get(command.node_id)
    if node is None:
        return [event]
    check_held(node, event)
    same = pb.NodeRegistered()
    same.CopyFrom(event)
    same.at_us = node.registered.at_us
    return [] if same == node.registered else [event]


def check_gpus(command: pb.RegisterNodeRequest, state: State) -> None:
    """Refuse GPUs that do not add up, are named twice, or are another node's."""
    uuids = [gpu.uuid for gpu in command.gpus]
    doubled = sorted({uuid for uuid in uuids if uuids.count(uuid) > 1})
    if doubled:
        raise Rejected(Code.INVALID_ARGUMENT, f"gpus: {doubled[0]} is named twice", "gpus")
    if command.capacity.gpu_milli != 1000 * len(uuids):
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"capacity.gpu_milli: {command.capacity.gpu_milli} given for {len(uuids)} GPUs:"
            " want 1000 for each",
            "capacity.gpu_milli",
        )
    for node_id, node in sorted(state.nodes.items()):
        foreign = sorted(uuid for uuid in uuids if uuid in node.gpus)
        if node_id != command.node_id and foreign:
            raise Rejected(Code.ALREADY_EXISTS, f"gpus: {foreign[0]} belongs to {node_id}", "gpus")


def check_held(node: Node, event: pb.NodeRegistered) -> None:
    """Refuse to lose what live allocations hold."""
    gone = sorted(node.held_gpus - {gpu.uuid for gpu in event.gpus})
    if gone:
        raise Rejected(
            Code.FAILED_PRECONDITION, f"gpus: {gone[0]} is held by a run and is missing", "gpus"
        )
    if any(used > have for used, have in zip(node.used, amounts_of(event.capacity), strict=True)):
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"capacity: less than the {len(node.allocations)} live allocations hold: drain first",
            "capacity",
        )


def connect(command: pb.ConnectNodeRequest, state: State, context: Context) -> list[Message]:
    """A session begins: the node's runs are compared with the books."""
    node = known(state, command.node_id)
    there = {(one.allocation_id, one.run): one for one in command.runs}
    event = pb.NodeConnected(
        node_id=command.node_id,
        session_id=command.session_id,
        boot_id=command.boot_id,
        at_us=context.at_us,
    )
    gone: list[Message] = []
    for allocation_id, allocation in sorted(node.allocations.items()):
        if (allocation_id, allocation.run) in there:
            del there[(allocation_id, allocation.run)]
            event.kept_allocation_ids.append(allocation_id)
            if allocation.stop_reason:
                grace = allocation.grace_period_seconds
                event.stops.append(stop_of(allocation, allocation.stop_reason, grace))
        elif not allocation.started_at_us and not allocation.stop_reason:
            event.missing_allocation_ids.append(allocation_id)
        else:
            gone.append(released(allocation, result_of_gone(allocation), context))
    for (allocation_id, run), one in sorted(there.items()):
        if not one.ended:
            event.stops.append(
                pb.StopRun(
                    allocation_id=allocation_id,
                    job_id=one.job_id,
                    run=run,
                    reason=jobs.STOP_REASON_FENCED,
                )
            )
    return [event, *gone]


def stop_of(allocation: Allocation, reason: jobs.StopReason, grace: int) -> pb.StopRun:
    """The order to stop a run."""
    return pb.StopRun(
        allocation_id=allocation.allocation_id,
        job_id=allocation.job_id,
        run=allocation.run,
        reason=reason,
        grace_period_seconds=grace,
    )


def result_of_gone(allocation: Allocation) -> jobs.RunResult:
    """How a run ended of which its own node has no trace."""
    if allocation.started_at_us:
        return jobs.RunResult(
            outcome=jobs.RUN_OUTCOME_NODE_LOST, detail="its node came back without it"
        )
    return jobs.RunResult(
        outcome=jobs.RUN_OUTCOME_NOT_STARTED, detail="told to stop before it started"
    )


def lose(command: pb.ReportNodeLostRequest, state: State, context: Context) -> list[Message]:
    """A session fell silent; a newer session makes that void."""
    node = known(state, command.node_id)
    if node.lost or not node.session_id:
        return []
    if command.session_id and command.session_id != node.session_id:
        return []
    return [
        pb.NodeLost(
            node_id=command.node_id,
            session_id=node.session_id,
            release_at_us=context.at_us + RELEASE_MARGIN_US,
            at_us=context.at_us,
        )
    ]


def release_lost(state: State, context: Context) -> list[Message]:
    """The places of nodes that are lost for long enough are free."""
    lost = jobs.RunResult(outcome=jobs.RUN_OUTCOME_NODE_LOST, detail="its node was lost")
    events: list[Message] = [
        released(allocation, lost, context)
        for _, node in sorted(state.nodes.items())
        if node.lost and node.release_at_us <= context.at_us
        for _, allocation in sorted(node.allocations.items())
        if not allocation.survive_disconnect
    ]
    return events[:RELEASED_MAX]


def cordon(command: pb.CordonNodeRequest, state: State, context: Context) -> list[Message]:
    """A node takes nothing new."""
    node = known(state, command.node_id)
    if node.cordoned:
        return []
    event = pb.NodeCordoned(node_id=command.node_id, reason=command.reason, at_us=context.at_us)
    return [event]


def uncordon(command: pb.UncordonNodeRequest, state: State, context: Context) -> list[Message]:
    """A node takes work again."""
    node = known(state, command.node_id)
    if not (node.cordoned or node.draining):
        return []
    return [pb.NodeUncordoned(node_id=command.node_id, at_us=context.at_us)]


def drain(command: pb.DrainNodeRequest, state: State, context: Context) -> list[Message]:
    """A node takes nothing new, and what it has is told to leave."""
    node = known(state, command.node_id)
    if node.draining:
        return []
    event = pb.NodeDrainRequested(
        node_id=command.node_id, reason=command.reason, at_us=context.at_us
    )
    return [
        event,
        *(
            release_requested(allocation, jobs.STOP_REASON_DRAINED, context)
            for _, allocation in sorted(node.allocations.items())
            if not allocation.stop_reason
        ),
    ]


def report_health(
    command: pb.ReportNodeHealthRequest, state: State, context: Context
) -> list[Message]:
    """GPUs whose readings break a rule take nothing new."""
    node = known(state, command.node_id)
    events: list[Message] = []
    for reading in sorted(command.gpus, key=lambda one: one.gpu_uuid):
        if reading.gpu_uuid not in node.gpus or reading.gpu_uuid in node.cordoned_gpus:
            continue
        broken = broken_rule(reading)
        if broken and all(getattr(one, "gpu_uuid", "") != reading.gpu_uuid for one in events):
            events.append(
                pb.GpuCordoned(
                    node_id=command.node_id,
                    gpu_uuid=reading.gpu_uuid,
                    reason=broken,
                    at_us=context.at_us,
                )
            )
    return events


def broken_rule(reading: pb.GpuHealth) -> str:
    """The first rule that a reading breaks, with the reading; "" for a healthy GPU."""
    fatal = sorted(XIDS_FATAL.intersection(reading.xids))
    if fatal:
        return f"xid {fatal[0]}"
    if reading.ecc_uncorrectable:
        return f"{reading.ecc_uncorrectable} uncorrectable memory errors"
    if reading.temperature_celsius_max >= TEMPERATURE_CELSIUS_MAX:
        return f"{reading.temperature_celsius_max} degrees Celsius"
    return ""


def uncordon_gpu(command: pb.UncordonGpuRequest, state: State, context: Context) -> list[Message]:
    """A GPU takes work again."""
    node = known(state, command.node_id)
    if command.gpu_uuid not in node.gpus:
        raise Rejected(
            Code.NOT_FOUND, f"{command.node_id} has no GPU {command.gpu_uuid!r}", "gpu_uuid"
        )
    if command.gpu_uuid not in node.cordoned_gpus:
        return []
    return [
        pb.GpuUncordoned(node_id=command.node_id, gpu_uuid=command.gpu_uuid, at_us=context.at_us)
    ]


def known(state: State, node_id: str) -> Node:
    """The node of this id, or Rejected."""
    node = state.nodes.get(node_id)
    if node is None:
        raise Rejected(Code.NOT_FOUND, f"no node {node_id!r} has registered", "node_id")
    return node
