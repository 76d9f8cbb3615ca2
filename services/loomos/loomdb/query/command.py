"""What a command came to, as the audit index has it."""

from typing import Any

import psycopg

from loom.kit.authorize import Caller
from loom.v1 import common_pb2
from loom.v1 import loomdb_pb2 as pb

__all__ = ["find_command"]

COMMAND_EVENTS_MAX = 20_000
"""More do not fit into the one batch that holds a command."""
REFUSED = "command.refused"
ACKNOWLEDGED = "command.acknowledged"


async def find_command(
    request: pb.FindCommandRequest, caller: Caller, db: psycopg.AsyncConnection[Any]
) -> pb.FoundCommand:
    """The answer that a command got, from its events; empty where it left none."""
    cursor = await db.execute(
        "SELECT * FROM audit_events WHERE event_id = %s AND topic = %s",
        (f"{request.token}.1", request.topic),
    )
    first = await cursor.fetchone()
    if first is None:
        return pb.FoundCommand()
    # A command's records stand side by side, in one batch.
    cursor = await db.execute(
        "SELECT * FROM audit_events WHERE topic = %s AND partition = %s "
        "AND record_offset BETWEEN %s AND %s AND event_id LIKE %s ORDER BY record_offset",
        (
            first["topic"],
            first["partition"],
            first["record_offset"],
            first["record_offset"] + COMMAND_EVENTS_MAX,
            f"{request.token}.%",
        ),
    )
    rows = await cursor.fetchall()
    said = first["payload"]
    refused = first["type"] == REFUSED
    subject = said.get("subject", "") if first["type"] == ACKNOWLEDGED else ""
    return pb.FoundCommand(
        position=common_pb2.Position(
            topic=first["topic"],
            partition=first["partition"],
            offset=rows[-1]["record_offset"],
            incarnation=first["incarnation"],
        ),
        at_us=first["at_us"],
        digest=first["command_digest"],
        stream_id="" if refused else subject or first["stream"],
        version=0
        if refused
        else max(row["version"] for row in rows if row["stream"] == first["stream"]),
        correlation_id=first["correlation_id"],
        code=said.get("code", "") if refused else "",
        message=said.get("message", "") if refused else "",
        field=said.get("field", "") if refused else "",
    )
