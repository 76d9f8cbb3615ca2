"""When an event was decided: what services that look back to it must know."""

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.query.events import select

__all__ = ["get_moment"]

AT_OR_BEFORE = """(topic, partition, incarnation, record_offset) = (
    SELECT topic, partition, incarnation, record_offset FROM audit_events
    WHERE topic = %(topic)s AND partition = %(partition)s AND incarnation = %(incarnation)s
        AND record_offset <= %(offset)s ORDER BY record_offset DESC LIMIT 1)"""


async def get_moment(
    request: pb.GetMomentRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.Moment:
    """An event's time and owner; who may know of it is judged by the service that asked."""
    if request.event_id:
        rows = await select(db, "event_id = %(id)s", {"id": request.event_id}, 1)
    else:
        place = request.position
        parameters = {
            "topic": place.topic,
            "partition": place.partition,
            "incarnation": place.incarnation,
            "offset": place.offset,
        }
        rows = await select(db, AT_OR_BEFORE, parameters, 1)
    if not rows:
        raise Rejected(Code.NOT_FOUND, "the audit index holds no such event", "event_id")
    return pb.Moment(
        event_id=rows[0]["event_id"],
        at_us=rows[0]["at_us"],
        organisation_id=rows[0]["organisation_id"],
        project_id=rows[0]["project_id"],
    )
