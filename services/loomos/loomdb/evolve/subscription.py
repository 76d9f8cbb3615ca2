"""How subscriptions and feeds change with each event."""

from google.protobuf.message import Message

from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.state import Subscribed, Trail

__all__ = ["evolve"]


def evolve(state: Trail, event: Message) -> None:
    """Fold one event; other classes change nothing."""
    match event:
        case pb.SubscriptionCreated():
            state.subscriptions[event.subscription_id] = Subscribed(event.name)
        case pb.SubscriptionDeleted():
            state.subscriptions.pop(event.subscription_id, None)
        case pb.DeliveriesBuried():
            found = state.subscriptions[event.subscription_id]
            for letter in event.letters:
                found.letters[letter.number] = False
                found.numbered = max(found.numbered, letter.number)
        case pb.DeliveriesReplayed():
            for number in event.numbers:
                state.subscriptions[event.subscription_id].letters[number] = True
        case pb.SubscriptionAdvanced():
            for number in event.replayed:
                state.subscriptions[event.subscription_id].letters.pop(number, None)
        case pb.FeedEnabled():
            state.feed = (event.classification, event.upcast)
        case pb.FeedDisabled():
            state.feed = None
