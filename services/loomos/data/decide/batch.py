"""Rules of batches that are handed over: accepted whole, appended in slices by the clock.

1. An accepted batch stands in the log with its events, so no crash loses it; acceptance holds every
   event against every rule, as an append at once would.
2. A slice stays small enough for one command, and the batch ends: what cannot be appended any more
   is told as refused, and the rest goes on.
"""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import data_pb2 as pb
from loomos.data.decide.event import Ahead, append_token, append_whole, complete_all, next_event
from loomos.data.state import Pending, State

__all__ = ["process", "submit"]

PENDING_MAX = 64
SLICE_EVENTS_MAX = 200
SLICE_BYTES_MAX = 300_000
MESSAGE_MAX = 300


def submit(command: pb.SubmitBatchRequest, state: State, context: Context) -> list[Message]:
    """The batch is in the log; nothing of it is appended yet."""
    if len(state.pending) >= PENDING_MAX:
        raise Rejected(
            Code.RESOURCE_EXHAUSTED,
            f"{PENDING_MAX} batches of {state.shard} wait already: hand it over later",
        )
    fields = [f"events[{index}]" for index in range(len(command.events))]
    whole = complete_all(command.events, fields, state, context)
    append_whole(whole, command.old, fields, state, context)
    return [
        pb.BatchAccepted(
            batch_id=context.new_id("batch"),
            organisation_id=state.shard,
            events=whole,
            submitted_by=context.actor,
            accepted_at_us=context.at_us,
            due_at_us=context.at_us + command.max_wait_ms * 1000,
            old=command.old,
        )
    ]


def process(state: State, context: Context) -> list[Message]:
    """The next slice of the batch that is due first."""
    due = [
        (batch.due_us, batch_id)
        for batch_id, batch in state.pending.items()
        if batch.due_us <= context.at_us
    ]
    if not due:
        return []
    _, batch_id = min(due)
    return slice_of(batch_id, state.pending[batch_id], state, context)


def slice_of(batch_id: str, batch: Pending, state: State, context: Context) -> list[Message]:
    """The slice's events, and how far the batch is behind them."""
    later = {event.event_id for event in batch.events[batch.done :]}
    ahead = Ahead(append_token(context), batch.old, later=later)
    made: list[Message] = []
    told = pb.BatchProcessed(
        batch_id=batch_id, organisation_id=state.shard, done=batch.done, at_us=context.at_us
    )
    size = 0
    for index in range(batch.done, len(batch.events)):
        event = batch.events[index]
        size += event.ByteSize()
        if told.done > batch.done and (
            size > SLICE_BYTES_MAX or told.done - batch.done >= SLICE_EVENTS_MAX
        ):
            break
        told.done = index + 1
        try:
            sealed = bool(event.personal_paths)
            found = next_event(
                event, f"events[{index}]", state, context, batch.submitted_by, ahead, sealed
            )
        except Rejected as refusal:
            told.refused.add(
                index=index,
                event_id=event.event_id,
                code=refusal.code,
                message=refusal.message[:MESSAGE_MAX],
            )
            continue
        if found is None:
            told.duplicates += 1
        else:
            made.append(found)
            told.events_processed += 1
    told.finished = told.done == len(batch.events)
    return [*made, told]
