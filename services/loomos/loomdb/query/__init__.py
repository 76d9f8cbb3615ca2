"""Reads the audit index; foreign events are answered like unknown ones."""

from loomos.loomdb.query.causality import walk_causes
from loomos.loomdb.query.events import cursor_of, get_event, list_events, place_of
from loomos.loomdb.query.moment import get_moment
from loomos.loomdb.query.story import get_story

__all__ = [
    "cursor_of",
    "get_event",
    "get_moment",
    "get_story",
    "list_events",
    "place_of",
    "walk_causes",
]
