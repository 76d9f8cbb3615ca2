"""Walks causes and effects of one event, step by step, inside what the caller may see.

1. An event's cause is the event that its causation id names, by the log's id or by the one that
   its own organisation gave; its effects name it as theirs.
2. A walk goes over events of the caller's own and of the platform itself; it ends at anybody
   else's, as if they were not there.
3. Each walk is bounded in steps, in events, in time and by what an answer can carry, and says when
   it ended at a bound.
"""

import time
from collections.abc import Collection, Mapping
from typing import Any

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.decide import PLATFORM
from loomos.loomdb.query.answers import ANSWER_BYTES_MAX, carried_by, event_of, filled
from loomos.loomdb.query.events import VISIBLE, bounded, own_id, owned, select, visible
from loomos.loomdb.query.story import arrange

__all__ = ["walk_causes"]

STEPS = 100
EVENTS = 1000
WALK_S = 5.0
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
    steps, size, until = 0, 0, time.monotonic() + WALK_S
    await bounded(db)
    fresh, full = await named(db, {(organisation, request.event_id)}, parameters, limit)
    while fresh and steps <= steps_max and len(events) < limit:
        room = limit - len(events)
        events |= dict(list(fresh.items())[:room])
        size += sum(one.ByteSize() for one in fresh.values())
        late = time.monotonic() >= until
        if len(fresh) > room or full or late or size > ANSWER_BYTES_MAX:
            break
        if forward:
            following, full = await caused(db, fresh, parameters, limit)
        else:
            causes = {(one.organisation_id, one.causation_id) for one in fresh.values()}
            following, full = await named(db, causes, parameters, limit)
        fresh = {name: following[name] for name in following if name not in events}
        steps += 1
    if not parameters["all"] and not any(event.organisation_id for event in events.values()):
        events = {}
    if not events:
        raise Rejected(Code.NOT_FOUND, f"no event {request.event_id!r}", "event_id")
    told = list(events.values())[: carried_by(events.values())]
    return pb.CausalWalk(
        event_id=request.event_id,
        direction=request.direction,
        entries=arrange(told) if forward else chain(told),
        complete=not fresh and not full,
    )


async def named(
    db: psycopg.AsyncConnection,
    wanted: Collection[tuple[str, str]],
    parameters: dict[str, Any],
    limit: int,
) -> tuple[dict[str, pb.AuditEvent], bool]:
    """The events of these ids, which organisations use, one more than the limit at most.

    And whether there may be more than an answer can carry.
    """
    ids = sorted({event_id for _, event_id in wanted if event_id})
    rows = await select(db, f"event_id = ANY(%(ids)s) AND {SEEN}", parameters | {"ids": ids}, limit)
    events, full = {row["event_id"]: event_of(row) for row in rows}, filled(rows)
    if rest := [one for one in ids if one not in events]:
        where, given = owned(rest, sorted({organisation for organisation, _ in wanted}))
        rows = await select(db, f"{where} AND {SEEN}", parameters | given, limit + 1)
        more, full = {row["event_id"]: event_of(row) for row in rows}, full or filled(rows)
        events |= {
            name: one for name, one in more.items() if (one.organisation_id, own_id(one)) in wanted
        }
    return events, full


async def caused(
    db: psycopg.AsyncConnection,
    causes: Mapping[str, pb.AuditEvent],
    parameters: dict[str, Any],
    limit: int,
) -> tuple[dict[str, pb.AuditEvent], bool]:
    """The events that name one of these as their cause, as `named` gives them."""
    own = {(one.organisation_id, own_id(one)) for one in causes.values() if own_id(one)}
    ids = [*causes, *sorted({name for _, name in own})]
    where = f"causation_id = ANY(%(ids)s) AND {SEEN}"
    rows = await select(db, where, parameters | {"ids": ids}, limit + 1)
    found = {
        row["event_id"]: event_of(row)
        for row in rows
        if row["causation_id"] in causes or (row["organisation_id"], row["causation_id"]) in own
    }
    return found, filled(rows)


def chain(events: Collection[pb.AuditEvent]) -> list[pb.StoryEntry]:
    """A walk back: an event has one cause, so each stands one step behind the one it led to."""
    return [pb.StoryEntry(depth=depth, event=event) for depth, event in enumerate(events)]
