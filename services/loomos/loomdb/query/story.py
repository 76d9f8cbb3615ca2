"""All events of one correlation id, each behind its cause."""

from collections.abc import Sequence

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.decide import PLATFORM
from loomos.loomdb.query.answers import carried_by, event_of, filled
from loomos.loomdb.query.events import LIST_MS, VISIBLE, bounded, own_id, select, visible

__all__ = ["arrange", "get_story"]

STORY_EVENTS_MAX = 2000


async def get_story(
    request: pb.GetStoryRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.Story:
    """The story as a tree; an organisation also sees what the platform itself did for it."""
    _, parameters = visible(request.organisation_id, caller, "GetStory")
    await bounded(db, LIST_MS)
    rows = await select(
        db,
        f"correlation_id = %(id)s AND ({VISIBLE} OR organisation_id = '')",
        parameters | {"id": request.correlation_id},
        STORY_EVENTS_MAX + 1,
    )
    full = filled(rows)
    if request.organisation_id != PLATFORM:
        rows = [row for row in rows if row["organisation_id"] in ("", request.organisation_id)]
    own = any(row["organisation_id"] for row in rows)
    if not rows or not (own or parameters["all"]):
        raise Rejected(Code.NOT_FOUND, f"no story {request.correlation_id!r}", "correlation_id")
    events = [event_of(row) for row in rows[:STORY_EVENTS_MAX]]
    kept = carried_by(events)
    return pb.Story(
        correlation_id=request.correlation_id,
        entries=arrange(events[:kept]),
        complete=kept == len(rows) and not full,
    )


def arrange(events: Sequence[pb.AuditEvent]) -> list[pb.StoryEntry]:
    """The events as a tree in pre-order: causes first, siblings in the order given.

    An event whose cause is not among them, or that names itself as its cause by any detour, stands
    at depth 0: every event is in the answer exactly once.
    """
    known = {event.event_id for event in events}
    own = {(event.organisation_id, own_id(event)): event.event_id for event in events}
    effects: dict[str, list[pb.AuditEvent]] = {}
    roots = []
    for event in events:
        cause = event.causation_id
        if cause not in known:
            cause = own.get((event.organisation_id, cause), "") if cause else ""
        if cause and cause != event.event_id:
            effects.setdefault(cause, []).append(event)
        else:
            roots.append(event)
    entries: list[pb.StoryEntry] = []
    placed: set[str] = set()
    for root in [*roots, *events]:
        waiting = [(0, root)]
        while waiting:
            depth, event = waiting.pop()
            if event.event_id in placed:
                continue
            placed.add(event.event_id)
            entries.append(pb.StoryEntry(depth=depth, event=event))
            following = effects.get(event.event_id, ())
            waiting.extend((depth + 1, effect) for effect in reversed(following))
    return entries
