"""Reads the audit index; foreign events are answered like unknown ones."""

from loomos.loomdb.query.events import cursor_of, get_event, list_events, place_of
from loomos.loomdb.query.story import get_story

__all__ = ["cursor_of", "get_event", "get_story", "list_events", "place_of"]
