"""Turns events into the read model's rows: prices, budgets, usage."""

from loom.decider import Recorded, Statement
from loom.v1 import marketplace_pb2 as pb
from loomos.marketplace.state import month_of

__all__ = ["project"]

PRICE = """
INSERT INTO prices VALUES (%s, %s, %s, %s) ON CONFLICT (organisation_id, sku) DO UPDATE
SET micro_dollars_per_hour = excluded.micro_dollars_per_hour, event_id = excluded.event_id
"""
BUDGET = """
INSERT INTO budgets VALUES (%s, %s) ON CONFLICT (project_id) DO UPDATE
SET monthly_micro_dollars = excluded.monthly_micro_dollars
"""
USAGE = "INSERT INTO usage VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"


def project(record: Recorded) -> list[Statement]:
    """The statements that bring the tables from before the event to after it."""
    match record.event:
        case pb.PricePublished() as event:
            row = (event.organisation_id, event.sku, event.micro_dollars_per_hour, record.id)
            return [Statement(PRICE, row)]
        case pb.BudgetSet() as event:
            return [Statement(BUDGET, (event.project_id, event.monthly_micro_dollars))]
        case pb.UsageRecorded() as event:
            return [
                Statement(
                    USAGE,
                    (
                        event.usage_id,
                        record.at_us,
                        event.job_id,
                        event.run,
                        event.project_id,
                        event.node_id,
                        event.started_at_us,
                        event.ended_at_us,
                        month_of(event.ended_at_us),
                        event.micro_dollars,
                        event.SerializeToString(deterministic=True),
                        record.id,
                    ),
                )
            ]
        case _:
            return []
