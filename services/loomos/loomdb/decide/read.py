"""Decides reads of the audit trail: each one is recorded before it is answered."""

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from loom.decider import Code, Rejected
from loom.v1 import loomdb_pb2 as pb

__all__ = ["opened", "read"]


def read(command: Message) -> list[Message]:
    """The record of a read."""
    ranged = (pb.ListEventsRequest, pb.SearchEventsRequest, pb.AnalyzeEventsRequest)
    if isinstance(command, ranged) and 0 < command.to_us <= command.from_us:
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"to_us is {command.to_us}, not after from_us {command.from_us}",
            "to_us",
        )
    return [
        pb.AuditTrailRead(
            organisation_id=getattr(command, "organisation_id"),  # noqa: B009 - generated attribute
            method=command.DESCRIPTOR.name.removesuffix("Request"),
            query=MessageToJson(
                command, preserving_proto_field_name=True, sort_keys=True, indent=None
            ),
        )
    ]


def opened(command: pb.ReportStreamRequest) -> list[Message]:
    """The record of a stream of events that somebody reads from now on."""
    return [
        pb.AuditTrailRead(
            organisation_id=command.organisation_id, method=command.method, query=command.query
        )
    ]
