"""Decides reads of the audit trail: each one is recorded before it is answered."""

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected, Resource
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.state import Trail

__all__ = ["PLATFORM", "decide", "resource"]

PLATFORM = "platform"
"""The organisation that sees everything."""


def decide(command: Message, state: Trail, context: Context) -> list[Message]:
    """The record of a read."""
    match command:
        case pb.ListEventsRequest() if 0 < command.to_us <= command.from_us:
            raise Rejected(
                Code.INVALID_ARGUMENT,
                f"to_us is {command.to_us}, not after from_us {command.from_us}",
                "to_us",
            )
        case (
            pb.GetEventRequest()
            | pb.ListEventsRequest()
            | pb.GetStoryRequest()
            | pb.WalkCausesRequest()
            | pb.CompareMomentsRequest()
            | pb.GetProofRequest()
            | pb.GetCheckpointRequest()
            | pb.CheckConsistencyRequest()
        ):
            return [
                pb.AuditTrailRead(
                    organisation_id=command.organisation_id,
                    method=command.DESCRIPTOR.name.removesuffix("Request"),
                    query=MessageToJson(
                        command, preserving_proto_field_name=True, sort_keys=True, indent=None
                    ),
                )
            ]
    raise Rejected(Code.INVALID_ARGUMENT, f"loomdb does not know {command.DESCRIPTOR.full_name}")


def resource(command: Message, state: Trail) -> Resource | None:
    """The organisation whose trail is read."""
    organisation = str(getattr(command, "organisation_id", ""))
    if not organisation:
        return None
    return Resource("platform" if organisation == PLATFORM else "organisation", organisation)
