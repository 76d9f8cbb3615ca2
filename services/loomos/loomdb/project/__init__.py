"""LoomDB's read models, by noun."""

from loom.decider import Recorded, Statement
from loomos.loomdb.project import alert, events, keys, retention, subscription

__all__ = ["project"]


def project(record: Recorded) -> list[Statement]:
    """The audit index's row of an event, and what else it changes."""
    return [
        *events.project(record),
        *retention.project(record),
        *keys.project(record),
        *subscription.project(record),
        *alert.project(record),
    ]
