"""The client's questions to the audit index."""

from collections.abc import Iterator, Mapping
from typing import Any

from loomos.client.gateway import Door

__all__ = ["query"]

PAGE = 500


def query(
    door: Door, organisation: str, event_type: str, filters: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Events, oldest first, page by page."""
    path = f"/api/v1/organisations/{organisation}/audit/events"
    asked = {**filters, "type_prefix": event_type, "limit": PAGE}
    while True:
        given = {name: value for name, value in asked.items() if value}
        page = door.call("GET", path, params=given)
        yield from page["events"]
        if not page["next_cursor"]:
            return
        asked["cursor"] = page["next_cursor"]
