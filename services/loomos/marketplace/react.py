"""What follows: an ended run is recorded, an exhausted job is ended by the scheduler."""

from loom.decider import Command, Recorded
from loom.v1 import marketplace_pb2 as pb
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as scheduler
from loomos.marketplace.state import State

__all__ = ["react"]


def react(record: Recorded, view: State) -> list[Command]:
    """The commands that an event asks for."""
    match record.event:
        case rm.AllocationReleased() as event if event.allocation_id in view.meters:
            return [
                Command(
                    pb.RecordUsageRequest(
                        allocation_id=event.allocation_id,
                        organisation_id=view.shard,
                        source_event_id=record.id,
                    )
                )
            ]
        case pb.BudgetExhausted() as event:
            note = (
                f"budget of {event.budget_micro_dollars} micro-dollars used up: "
                f"{event.spent_micro_dollars} spent"
            )
            return [
                Command(
                    scheduler.CancelJobRequest(
                        job_id=event.job_id,
                        reason=scheduler.STOP_REASON_BUDGET_EXCEEDED,
                        note=note,
                    )
                )
            ]
        case _:
            return []
