"""Places that alerts are told to: a plugin by name, from the entry points `loomos.notify`.

1. A plugin tells one notice once; what is tried again, when, and how often is its caller's part.
2. A notice has an id that stays the same however often it is told: who hears it twice can know.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, NamedTuple, Protocol

__all__ = ["GROUP", "Notice", "Notifier", "Refused", "Settings", "Undelivered", "named"]

GROUP = "loomos.notify"


class Notice(NamedTuple):
    """What a place is told."""

    id: str
    """The id of the event that is told."""
    kind: str
    """`raised`, `acknowledged` or `resolved`."""
    time: str
    """When it was decided, RFC 3339."""
    alert_id: str
    organisation: str
    severity: str
    """`info`, `warning` or `critical`."""
    summary: str
    by: str
    """Who minds it, or ended it; empty while it is raised."""
    data: Mapping[str, Any]
    """The alert as its contract says it."""


class Refused(ValueError):
    """An address or a secret cannot be used; says what is wrong with it, never what it is."""


class Undelivered(Exception):
    """A place did not take a notice; `again` says whether it may take it later."""

    def __init__(self, reason: str, again: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again


Settings = Mapping[str, str]
"""The `LOOMOS_*` settings of the process."""


class Notifier(Protocol):
    """What a plugin's module has."""

    def check(self, address: str, secret: str, settings: Settings) -> str:
        """What may be shown of the address; raises Refused."""
        ...

    async def tell(self, notice: Notice, address: str, secret: str, settings: Settings) -> None:
        """Tell a place; raises Undelivered."""
        ...


def named(name: str) -> Notifier:
    """The plugin of this name; raises Refused."""
    found = entry_points(group=GROUP, name=name)
    if not found:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        raise Refused(f"no plugin {name!r}: want one of {known}")
    (plugin, *_) = found
    return plugin.load()
