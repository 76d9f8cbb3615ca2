"""Every rule of users' events and their schemas: which events a command causes, or its refusal."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected, Resource
from loom.v1 import common_pb2
from loom.v1 import data_pb2 as pb
from loomos.data.decide import copies
from loomos.data.decide.batch import process, submit
from loomos.data.decide.event import append, append_all, expect
from loomos.data.decide.schema import deprecate, register
from loomos.data.state import State

__all__ = ["decide", "resource"]


def resource(command: Message, state: State) -> Resource | None:
    """The organisation, or the one project of it that all events of a command name."""
    match command:
        case pb.AppendEventRequest():
            projects = {command.event.context.project_id}
        case pb.AppendEventsRequest() | pb.SubmitBatchRequest():
            projects = {event.context.project_id for event in command.events}
        case _:
            projects = set()
    if len(projects) == 1:
        (project,) = projects
        if project.startswith(f"{state.shard}."):
            return Resource("project", project)
    return Resource("organisation", state.shard)


def decide(command: Message, state: State, context: Context) -> list[Message]:
    """The events that a command causes; raises Rejected."""
    match command:
        case pb.AppendEventRequest():
            copies.check(command.consistency, command.copies)
            return [*append(command, state, context)]
        case pb.AppendEventsRequest():
            copies.check(command.consistency, command.copies)
            for index, one in enumerate(command.expected):
                expect(state, one.stream, one.version, f"expected[{index}].version")
            fields = [f"events[{index}]" for index in range(len(command.events))]
            return [*append_all(command.events, command.old, fields, state, context)]
        case pb.SubmitBatchRequest():
            return submit(command, state, context)
        case pb.RegisterSchemaRequest():
            return register(command, state, context)
        case pb.DeprecateSchemaRequest():
            return deprecate(command, state)
        case common_pb2.TickRequest():
            return process(state, context)
        case _:
            raise Rejected(Code.INVALID_ARGUMENT, f"{command.DESCRIPTOR.name} is no command here")
