"""Walks causes and effects of one event, step by step, inside what the caller may see.

1. An event's cause is the event that its causation id names; its effects name it as theirs.
2. A walk goes over events of the caller's own and of the platform itself; it ends at anybody
   else's, as if they were not there.
3. Each walk is bounded in steps and in events, and says when it ended at a bound.
"""

from collections.abc import Collection
from typing import Any

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.decide import PLATFORM
from loomos.loomdb.query.events import VISIBLE, event_of, select, visible
from loomos.loomdb.query.story import arrange

__all__ = ["walk_causes"]

STEPS = 100
EVENTS = 1000
SEEN = f"""({VISIBLE} OR organisation_id = '')
    AND (%(platform)s OR organisation_id IN ('', %(organisation)s))"""


async def walk_causes(
    request: pb.WalkCausesRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.CausalWalk:
    """The event with what led to it, or with what it led to."""
    organisation = request.organisation_id
    _, parameters = visible(organisation, caller, "WalkCauses")
    parameters |= {"organisation": organisation, "platform": organisation == PLATFORM}
    steps_max, limit = request.depth_max or STEPS, request.limit or EVENTS
    forward = request.direction == pb.CAUSAL_DIRECTION_EFFECTS
    events: dict[str, pb.AuditEvent] = {}
    steps = 0
    fresh = await found(db, "event_id", [request.event_id], parameters, limit)
    while fresh and steps <= steps_max and len(events) < limit:
        room = limit - len(events)
        events |= dict(list(fresh.items())[:room])
        if len(fresh) > room:
            break
        if forward:
            following = await found(db, "causation_id", fresh, parameters, limit)
        else:
            causes = [event.causation_id for event in fresh.values() if event.causation_id]
            following = await found(db, "event_id", causes, parameters, limit)
        fresh = {name: following[name] for name in following if name not in events}
        steps += 1
    if not parameters["all"] and not any(event.organisation_id for event in events.values()):
        events = {}
    if not events:
        raise Rejected(Code.NOT_FOUND, f"no event {request.event_id!r}", "event_id")
    return pb.CausalWalk(
        event_id=request.event_id,
        direction=request.direction,
        entries=arrange(list(events.values())) if forward else chain(events.values()),
        complete=not fresh,
    )


async def found(
    db: psycopg.AsyncConnection,
    column: str,
    ids: Collection[str],
    parameters: dict[str, Any],
    limit: int,
) -> dict[str, pb.AuditEvent]:
    """The events with one of these ids in a column, one more than the limit at most."""
    where = f"{column} = ANY(%(ids)s) AND {SEEN}"
    rows = await select(db, where, parameters | {"ids": list(ids)}, limit + 1)
    return {row["event_id"]: event_of(row) for row in rows}


def chain(events: Collection[pb.AuditEvent]) -> list[pb.StoryEntry]:
    """A walk back: an event has one cause, so each stands one step behind the one it led to."""
    return [pb.StoryEntry(depth=depth, event=event) for depth, event in enumerate(events)]
