"""What follows from what was heard: a checkpoint that a run completed is recorded."""

from loom.decider import Command, Recorded
from loom.v1 import checkpoint_pb2 as pb
from loom.v1 import scheduler_pb2 as scheduler
from loomos.checkpoint.state import State

__all__ = ["react"]


def react(record: Recorded, view: State) -> list[Command]:
    """The commands that an event asks for."""
    match record.event:
        case scheduler.JobCheckpointed() as event:
            return [
                Command(
                    pb.RecordCheckpointRequest(
                        job_id=event.job_id,
                        project_id=view.shard,
                        run=event.run,
                        sha256=event.checkpoint.sha256,
                        path=event.checkpoint.path,
                        source_event_id=record.id,
                    )
                )
            ]
        case _:
            return []
