"""How each event changes what is known of an organisation's events and schemas."""

from google.protobuf.message import Message

from loom.v1 import data_pb2 as pb
from loomos.data.state import KNOWN_US, Known, Pending, Schema, State, id_key

__all__ = ["evolve"]


def evolve(state: State, event: Message) -> None:
    """Fold one event into the state; other classes change nothing."""
    match event:
        case pb.EventAppended():
            appended(state, event)
        case pb.BatchAccepted():
            state.pending[event.batch_id] = Pending(
                tuple(event.events),
                event.submitted_by,
                event.due_at_us,
                {one.event_id: one.digest for one in event.old},
            )
        case pb.BatchProcessed():
            batch = state.pending[event.batch_id]
            batch.done, batch.due_us = event.done, event.at_us
            if event.finished:
                del state.pending[event.batch_id]
        case pb.SchemaRegistered():
            state.schemas.setdefault(event.event_type, {})[event.schema_version] = Schema(
                event.schema_json, event.digest, tuple(event.upcast)
            )
            state.compatibility[event.event_type] = event.compatibility
        case pb.SchemaDeprecated():
            own = state.schemas.get(event.event_type, {}).get(event.schema_version)
            if own is not None:
                own.deprecated = True
            else:
                state.deprecated.add(f"{event.event_type}@{event.schema_version}")


def appended(state: State, event: pb.EventAppended) -> None:
    """One more event of its stream; ids beyond their time are forgotten."""
    stream = event.stream_id.partition("/")[2]
    version = state.streams.get(stream, 0) + 1
    state.streams[stream] = version
    key = id_key(event.event_id)
    state.known[key] = Known(event.digest, version, event.append_id)
    at_us = event.appended_at_us
    if state.ages and state.ages[-1][0] == at_us:
        state.ages[-1][1].append(key)
    else:
        state.ages.append((at_us, [key]))
    while state.ages[0][0] < at_us - KNOWN_US:
        state.forgotten_us, keys = state.ages.popleft()
        for old in keys:
            state.known.pop(old, None)
