"""Walks causes and effects of one event, step by step, inside what the caller may see.

1. An event's cause is the event that its causation id names, by the log's id or by the one that
   its own organisation gave; its effects name it as theirs.
2. A walk goes over events of the caller's own and of the platform itself; it ends at anybody
   else's, as if they were not there.
3. Each walk is bounded in steps and in events, and says when it ended at a bound.
"""

from collections.abc import Collection, Mapping
from typing import Any

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.decide import PLATFORM
from loomos.loomdb.query.events import VISIBLE, event_of, own_id, owned, select, visible
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
    fresh = await named(db, {(organisation, request.event_id)}, parameters, limit)
    while fresh and steps <= steps_max and len(events) < limit:
        room = limit - len(events)
        events |= dict(list(fresh.items())[:room])
        if len(fresh) > room:
            break
        if forward:
            following = await caused(db, fresh, parameters, limit)
        else:
            causes = {(one.organisation_id, one.causation_id) for one in fresh.values()}
            following = await named(db, causes, parameters, limit)
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


async def named(
    db: psycopg.AsyncConnection,
    wanted: Collection[tuple[str, str]],
    parameters: dict[str, Any],
    limit: int,
) -> dict[str, pb.AuditEvent]:
    """The events of these ids, which organisations use, one more than the limit at most."""
    ids = sorted({event_id for _, event_id in wanted if event_id})
    rows = await select(db, f"event_id = ANY(%(ids)s) AND {SEEN}", parameters | {"ids": ids}, limit)
    events = {row["event_id"]: event_of(row) for row in rows}
    if rest := [one for one in ids if one not in events]:
        where, given = owned(rest, sorted({organisation for organisation, _ in wanted}))
        rows = await select(db, f"{where} AND {SEEN}", parameters | given, limit + 1)
        more = {row["event_id"]: event_of(row) for row in rows}
        events |= {
            name: one for name, one in more.items() if (one.organisation_id, own_id(one)) in wanted
        }
    return events


async def caused(
    db: psycopg.AsyncConnection,
    causes: Mapping[str, pb.AuditEvent],
    parameters: dict[str, Any],
    limit: int,
) -> dict[str, pb.AuditEvent]:
    """The events that name one of these as their cause, one more than the limit at most."""
    own = {(one.organisation_id, own_id(one)) for one in causes.values() if own_id(one)}
    ids = [*causes, *sorted({name for _, name in own})]
    where = f"causation_id = ANY(%(ids)s) AND {SEEN}"
    rows = await select(db, where, parameters | {"ids": ids}, limit + 1)
    return {
        row["event_id"]: event_of(row)
        for row in rows
        if row["causation_id"] in causes or (row["organisation_id"], row["causation_id"]) in own
    }


def chain(events: Collection[pb.AuditEvent]) -> list[pb.StoryEntry]:
    """A walk back: an event has one cause, so each stands one step behind the one it led to."""
    return [pb.StoryEntry(depth=depth, event=event) for depth, event in enumerate(events)]
