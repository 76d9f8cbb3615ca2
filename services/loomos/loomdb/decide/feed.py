"""Decides whether an organisation's events are written to a topic that its own clients read."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import common_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.state import Trail

__all__ = ["disable", "enable"]


def enable(command: pb.EnableFeedRequest, state: Trail, context: Context) -> list[Message]:
    """The feed, or what it carries from now on; none where nothing changes."""
    classification = (
        command.classification or common_pb2.DataClassification.DATA_CLASSIFICATION_INTERNAL
    )
    if state.feed == (classification, command.upcast):
        return []
    return [
        pb.FeedEnabled(
            feed_id=f"feed-{command.organisation_id}",
            organisation_id=command.organisation_id,
            classification=classification,
            # A feed that is there goes on where it is.
            begins_at="" if state.feed else command.begins_at,
            enabled_at_us=context.at_us,
            upcast=command.upcast,
        )
    ]


def disable(command: pb.DisableFeedRequest, state: Trail) -> list[Message]:
    """The feed's end."""
    if not state.feed:
        raise Rejected(Code.NOT_FOUND, f"{command.organisation_id!r} has no feed")
    return [
        pb.FeedDisabled(
            feed_id=f"feed-{command.organisation_id}", organisation_id=command.organisation_id
        )
    ]
