"""LoomDB's read models, by noun."""

from loom.decider import Recorded, Statement
from loom.v1 import data_pb2
from loomos.loomdb.project import alert, events, keys, retention, subscription

__all__ = ["project"]


def project(record: Recorded) -> list[Statement]:
    """The audit index's row of an event, and what else it changes."""
    if isinstance(record.event, data_pb2.EventAppended):
        # Nearly all events there are: what they cost is what the index costs.
        return [*events.project(record), *keys.project(record)]
    return [
        *events.project(record),
        *retention.project(record),
        *keys.project(record),
        *subscription.project(record),
        *alert.project(record),
    ]
