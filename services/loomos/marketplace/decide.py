"""Every rule of the marketplace: agreeing prices, recording usage once, telling of budgets."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected, Resource
from loom.v1 import common_pb2
from loom.v1 import marketplace_pb2 as pb
from loomos.marketplace.prices import LIST_VERSION, cost_lines, total
from loomos.marketplace.state import State, exhausted_at_us, month_of, spent

__all__ = ["decide", "resource"]

THRESHOLDS_PERCENT = (50, 80, 100)


def resource(command: Message, state: State) -> Resource | None:
    """Whose account the command touches."""
    match command:
        case pb.SetBudgetRequest():
            return Resource("project", command.project_id)
        case _:
            return Resource("organisation", state.shard)


def decide(command: Message, state: State, context: Context) -> list[Message]:
    """The events that the command comes to; raises Rejected."""
    match command:
        case pb.PublishPriceRequest():
            return publish_price(command, state, context)
        case pb.SetBudgetRequest():
            return set_budget(command, state, context)
        case pb.RecordUsageRequest():
            return record_usage(command, state, context)
        case common_pb2.TickRequest():
            return tick(state, context)
        case _:
            raise Rejected(Code.INVALID_ARGUMENT, f"{command.DESCRIPTOR.name} is no command here")


def publish_price(command: pb.PublishPriceRequest, state: State, context: Context) -> list[Message]:
    """A price from now on; the same one again changes nothing."""
    if state.agreed.get(command.sku) == command.micro_dollars_per_hour:
        return []
    return [
        pb.PricePublished(
            price_id=state.price_ids.get(command.sku) or context.new_id("price"),
            organisation_id=state.shard,
            sku=command.sku,
            micro_dollars_per_hour=command.micro_dollars_per_hour,
            at_us=context.at_us,
        )
    ]


def set_budget(command: pb.SetBudgetRequest, state: State, context: Context) -> list[Message]:
    """A monthly budget; the same one again changes nothing."""
    budget = state.budgets.get(command.project_id)
    if (budget.monthly_micro_dollars if budget else 0) == command.monthly_micro_dollars:
        return []
    return [
        pb.BudgetSet(
            budget_id=budget.budget_id if budget else context.new_id("budget"),
            project_id=command.project_id,
            monthly_micro_dollars=command.monthly_micro_dollars,
        )
    ]


def record_usage(command: pb.RecordUsageRequest, state: State, context: Context) -> list[Message]:
    """What a run used, once; an allocation that is not metered any more was recorded already."""
    meter = state.meters.get(command.allocation_id)
    if meter is None:
        return []
    if not meter.ended_at_us:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"allocation {command.allocation_id} has not ended: record its usage afterwards",
            "allocation_id",
        )
    started = meter.started_at_us or meter.ended_at_us
    seconds = -(-max(0, meter.ended_at_us - started) // 1_000_000)
    lines = cost_lines(meter.resources, meter.gpu_models, seconds, state.agreed)
    cost = total(lines)
    recorded = pb.UsageRecorded(
        usage_id=context.new_id("usage"),
        allocation_id=meter.allocation_id,
        job_id=meter.job_id,
        run=meter.run,
        project_id=meter.project_id,
        node_id=meter.node_id,
        started_at_us=started,
        ended_at_us=meter.ended_at_us,
        lines=lines,
        micro_dollars=cost,
        price_list_version=LIST_VERSION,
        source_event_id=command.source_event_id,
    )
    return [recorded, *thresholds(state, meter.project_id, cost, meter.ended_at_us)]


def thresholds(state: State, project_id: str, cost: int, at_us: int) -> list[Message]:
    """The highest budget threshold that this cost takes the project over, told once a month."""
    budget = state.budgets.get(project_id)
    if budget is None or not budget.monthly_micro_dollars:
        return []
    month = month_of(at_us)
    spending = state.spending.get(f"{month} {project_id}", 0) + cost
    reached = [
        percent
        for percent in THRESHOLDS_PERCENT
        if spending * 100 >= budget.monthly_micro_dollars * percent
    ]
    if not reached or reached[-1] <= budget.reached.get(month, 0):
        return []
    return [
        pb.BudgetReached(
            budget_id=budget.budget_id,
            project_id=project_id,
            month=month,
            percent=reached[-1],
            spent_micro_dollars=spending,
            monthly_micro_dollars=budget.monthly_micro_dollars,
        )
    ]


def tick(state: State, context: Context) -> list[Message]:
    """Running jobs that have used up their own budgets by now."""
    events: list[Message] = []
    for allocation_id in sorted(state.meters):
        meter = state.meters[allocation_id]
        moment = exhausted_at_us(state, meter)
        if moment is not None and moment <= context.at_us:
            events.append(
                pb.BudgetExhausted(
                    allocation_id=allocation_id,
                    job_id=meter.job_id,
                    project_id=meter.project_id,
                    budget_micro_dollars=meter.budget_micro_dollars,
                    spent_micro_dollars=spent(state, meter, context.at_us),
                )
            )
    return events
