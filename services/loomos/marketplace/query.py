"""Answers the marketplace's queries from its own tables; foreign ids like unknown ones."""

from typing import Any

from loom.decider import Code, Rejected, Resource
from loom.kit.caller import Caller
from loom.kit.scratch import asked_at_us
from loom.store import Connection
from loom.v1 import marketplace_pb2 as pb
from loomos.marketplace.prices import LIST, LIST_VERSION, cost_lines, total
from loomos.marketplace.state import month_of

__all__ = ["estimate_cost", "get_budget", "get_job_cost", "list_prices", "list_usage"]

PAGE = 100
VISIBLE = "(%(all)s OR project_id = ANY(%(projects)s))"


async def agreed(db: Connection, organisation_id: str) -> list[dict[str, Any]]:
    """The prices agreed with an organisation."""
    cursor = await db.execute(
        "SELECT * FROM prices WHERE organisation_id = %s ORDER BY sku", (organisation_id,)
    )
    return await cursor.fetchall()


def refuse_foreign(caller: Caller, action: str, organisation_id: str) -> None:
    """Answer like an unknown organisation where the caller may not see this one's prices."""
    if not caller.may(action, Resource("organisation", organisation_id)).allowed and (
        caller.organisation_id != organisation_id
    ):
        raise Rejected(Code.NOT_FOUND, f"no organisation {organisation_id!r}", "organisation_id")


async def estimate_cost(
    request: pb.EstimateCostRequest, caller: Caller, db: Connection
) -> pb.Estimate:
    """What a job would cost at today's prices."""
    refuse_foreign(caller, "EstimateCost", request.organisation_id)
    prices = {
        row["sku"]: row["micro_dollars_per_hour"]
        for row in await agreed(db, request.organisation_id)
    }
    models = [request.gpu_model] * (request.resources.gpu_milli // 1000)
    lines = cost_lines(request.resources, models, request.runtime_seconds, prices)
    return pb.Estimate(lines=lines, micro_dollars=total(lines), price_list_version=LIST_VERSION)


async def list_prices(
    request: pb.ListPricesRequest, caller: Caller, db: Connection
) -> pb.PriceList:
    """The list, and what was agreed instead."""
    refuse_foreign(caller, "ListPrices", request.organisation_id)
    prices = {
        sku: pb.Price(sku=sku, micro_dollars_per_hour=price, source="list")
        for sku, price in LIST.items()
    }
    for row in await agreed(db, request.organisation_id):
        prices[row["sku"]] = pb.Price(
            sku=row["sku"],
            micro_dollars_per_hour=row["micro_dollars_per_hour"],
            source="agreed",
            event_id=row["event_id"],
        )
    return pb.PriceList(
        prices=[prices[sku] for sku in sorted(prices)], price_list_version=LIST_VERSION
    )


async def get_job_cost(request: pb.GetJobCostRequest, caller: Caller, db: Connection) -> pb.JobCost:
    """What a job's ended runs cost; nothing yet where none has ended."""
    cursor = await db.execute(
        f"SELECT recorded, event_id FROM usage WHERE job_id = %(job)s AND {VISIBLE} "  # noqa: S608
        "ORDER BY run",
        {"job": request.job_id, **caller.scope("GetJobCost")._asdict()},
    )
    runs = [usage(row) for row in await cursor.fetchall()]
    return pb.JobCost(
        job_id=request.job_id, micro_dollars=sum(run.micro_dollars for run in runs), usage=runs
    )


async def list_usage(request: pb.ListUsageRequest, caller: Caller, db: Connection) -> pb.UsageList:
    """Usage records, newest first."""
    limit = request.limit or PAGE
    cursor = await db.execute(
        f"""
        SELECT number, recorded, event_id FROM usage
        WHERE (%(project)s = '' OR project_id = %(project)s) AND {VISIBLE}
          AND (%(before)s = 0 OR number < %(before)s)
        ORDER BY number DESC LIMIT %(limit)s
        """,  # noqa: S608
        {
            "project": request.project_id,
            "before": int(request.cursor or 0),
            "limit": limit,
            **caller.scope("ListUsage")._asdict(),
        },
    )
    rows = await cursor.fetchall()
    following = str(rows[-1]["number"]) if len(rows) == limit else ""
    return pb.UsageList(usage=[usage(row) for row in rows], next_cursor=following)


async def get_budget(request: pb.GetBudgetRequest, caller: Caller, db: Connection) -> pb.Budget:
    """A project's budget, and what it has spent this month."""
    if not caller.may("GetBudget", Resource("project", request.project_id)).allowed:
        raise Rejected(Code.NOT_FOUND, f"no project {request.project_id!r}", "project_id")
    month = month_of(await asked_at_us(db))
    cursor = await db.execute(
        "SELECT (SELECT monthly_micro_dollars FROM budgets WHERE project_id = %(project)s) "
        "AS monthly, (SELECT coalesce(sum(micro_dollars), 0) FROM usage "
        "WHERE project_id = %(project)s AND month = %(month)s)::bigint AS spent",
        {"project": request.project_id, "month": month},
    )
    row = await cursor.fetchone()
    assert row is not None
    return pb.Budget(
        project_id=request.project_id,
        monthly_micro_dollars=row["monthly"] or 0,
        month=month,
        spent_micro_dollars=row["spent"],
    )


def usage(row: dict[str, Any]) -> pb.Usage:
    """One usage record."""
    event = pb.UsageRecorded.FromString(row["recorded"])
    return pb.Usage(
        usage_id=event.usage_id,
        job_id=event.job_id,
        run=event.run,
        project_id=event.project_id,
        node_id=event.node_id,
        started_at_us=event.started_at_us,
        ended_at_us=event.ended_at_us,
        lines=event.lines,
        micro_dollars=event.micro_dollars,
        event_id=row["event_id"],
    )
