"""Decides that a report was made: what was asked for and what the server found."""

import json

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from loom.decider import Code, Rejected
from loom.v1 import loomdb_pb2 as pb

__all__ = ["Report", "issue", "name_of", "parameters_of"]

Report = (
    pb.ReportAccessRequest
    | pb.ReportActivityRequest
    | pb.ReportLineageRequest
    | pb.ReportSubjectRequest
)
OWN = ("organisation_id", "format", "cut", "facts")


def issue(command: Report) -> list[Message]:
    """The record of a report; the door has found the facts."""
    if not command.facts.cut:
        told = "nothing is signed yet that a report could stand on: try again in a second"
        raise Rejected(Code.FAILED_PRECONDITION, told, "cut")
    return [
        pb.ReportIssued(
            organisation_id=command.organisation_id,
            report=name_of(command),
            parameters=json.dumps(parameters_of(command), sort_keys=True),
            facts=command.facts,
        )
    ]


def name_of(command: Report) -> str:
    """`access` for ReportAccessRequest."""
    return command.DESCRIPTOR.name.removeprefix("Report").removesuffix("Request").lower()


def parameters_of(command: Report) -> dict[str, str]:
    """What was asked for, without what every report has."""
    fields = MessageToDict(command, preserving_proto_field_name=True)
    return {name: str(value) for name, value in fields.items() if name not in OWN}
