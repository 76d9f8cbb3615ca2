"""How each event changes an organisation's account; heard events of the resource manager too."""

from google.protobuf.message import Message

from loom.v1 import marketplace_pb2 as pb
from loom.v1 import resource_manager_pb2 as rm
from loomos.marketplace.state import Budget, Meter, State, month_of, organisation_of

__all__ = ["evolve"]


def evolve(state: State, event: Message) -> None:
    """Change the state by one event; other classes change nothing."""
    match event:
        case pb.PricePublished():
            state.agreed[event.sku] = event.micro_dollars_per_hour
            state.price_ids[event.sku] = event.price_id
        case pb.BudgetSet():
            known = state.budgets.get(event.project_id)
            reached = dict(known.reached) if known else {}
            state.budgets[event.project_id] = Budget(
                event.budget_id, event.monthly_micro_dollars, reached
            )
        case pb.BudgetReached():
            state.budgets[event.project_id].reached[event.month] = event.percent
        case pb.BudgetExhausted():
            meter = state.meters.get(event.allocation_id)
            if meter is not None:
                meter.exhausted = True
        case pb.UsageRecorded():
            record(state, event)
        case rm.NodeRegistered():
            for gpu in event.gpus:
                state.gpu_models[gpu.uuid] = gpu.model
        case rm.AllocationGranted():
            grant(state, event)
        case rm.AllocationStarted():
            if event.allocation_id in state.meters:
                state.meters[event.allocation_id].started_at_us = event.at_us
        case rm.AllocationReleased():
            if event.allocation_id in state.meters:
                state.meters[event.allocation_id].ended_at_us = event.at_us


def grant(state: State, event: rm.AllocationGranted) -> None:
    """Begin to meter a run of this organisation."""
    spec = event.run.spec
    # The template of shards to come hears all; it meters nothing, for nobody pays by it yet.
    if organisation_of(event.run.project_id) != state.shard:
        return
    state.meters[event.allocation_id] = Meter(
        allocation_id=event.allocation_id,
        job_id=event.run.job_id,
        run=event.run.run,
        project_id=event.run.project_id,
        node_id=event.node_id,
        resources=spec.resources,
        gpu_models=[state.gpu_models.get(uuid, "") for uuid in event.gpu_uuids],
        budget_micro_dollars=spec.budget_micro_dollars,
    )


def record(state: State, event: pb.UsageRecorded) -> None:
    """The run is paid: its meter goes, the sums stay."""
    meter = state.meters.pop(event.allocation_id, None)
    if meter is not None and meter.budget_micro_dollars:
        state.job_costs[event.job_id] = state.job_costs.get(event.job_id, 0) + event.micro_dollars
    key = f"{month_of(event.ended_at_us)} {event.project_id}"
    state.spending[key] = state.spending.get(key, 0) + event.micro_dollars
