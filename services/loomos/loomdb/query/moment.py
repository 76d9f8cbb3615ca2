"""When an event was decided: what services that look back to it must know."""

from typing import Any, LiteralString, cast

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import loomdb_pb2 as pb

__all__ = ["get_moment"]

# What a policy deleted happened all the same, and a moment may be named by it.
NAMED = " UNION ALL ".join(
    f"SELECT event_id, at_us, organisation_id, project_id FROM {table} WHERE event_id = %(id)s"  # noqa: S608
    for table in ("audit_events", "deleted_events")
)
AT_OR_BEFORE = " UNION ALL ".join(
    "(SELECT event_id, at_us, organisation_id, project_id, record_offset "  # noqa: S608
    f"FROM {table} WHERE topic = %(topic)s AND partition = %(partition)s "
    "AND incarnation = %(incarnation)s AND record_offset <= %(offset)s "
    "ORDER BY record_offset DESC LIMIT 1)"
    for table in ("audit_events", "deleted_events")
)


async def get_moment(
    request: pb.GetMomentRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.Moment:
    """An event's time and owner; who may know of it is judged by the service that asked."""
    if request.event_id:
        cursor = await db.execute(cast(LiteralString, NAMED), {"id": request.event_id})
    else:
        place = request.position
        parameters = {
            "topic": place.topic,
            "partition": place.partition,
            "incarnation": place.incarnation,
            "offset": place.offset,
        }
        text = f"{AT_OR_BEFORE} ORDER BY record_offset DESC LIMIT 1"
        cursor = await db.execute(cast(LiteralString, text), parameters)
    rows: list[Any] = await cursor.fetchall()
    if not rows:
        raise Rejected(Code.NOT_FOUND, "the audit index holds no such event", "event_id")
    return pb.Moment(
        event_id=rows[0]["event_id"],
        at_us=rows[0]["at_us"],
        organisation_id=rows[0]["organisation_id"],
        project_id=rows[0]["project_id"],
    )
