"""Puts the events of one correlation id behind their causes."""

from collections.abc import Sequence

from loom.v1 import loomdb_pb2 as pb

__all__ = ["arrange"]


def arrange(events: Sequence[pb.AuditEvent]) -> list[pb.StoryEntry]:
    """The events as a tree in pre-order: causes first, siblings in the order given.

    An event whose cause is not among them, or that names itself as its cause by any detour, stands
    at depth 0: every event is in the answer exactly once.
    """
    known = {event.event_id for event in events}
    effects: dict[str, list[pb.AuditEvent]] = {}
    roots = []
    for event in events:
        if event.causation_id in known and event.causation_id != event.event_id:
            effects.setdefault(event.causation_id, []).append(event)
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
