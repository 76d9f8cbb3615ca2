"""Tables of subscriptions, their dead letters, and feeds."""

from google.protobuf.message import Message

from loom.decider import Recorded, Statement
from loom.v1 import loomdb_pb2 as pb

__all__ = ["project"]


def project(record: Recorded) -> list[Statement]:
    """The statements of one event."""
    event = record.event
    match event:
        case pb.SubscriptionCreated():
            return [
                Statement(
                    "INSERT INTO subscriptions (subscription_id, organisation_id, name, created, "
                    "logged_cursor) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (
                        event.subscription_id,
                        event.organisation_id,
                        event.name,
                        stored(event),
                        event.begins_at,
                    ),
                )
            ]
        case pb.SubscriptionDeleted():
            own = (event.subscription_id,)
            return [
                Statement("DELETE FROM dead_deliveries WHERE subscription_id = %s", own),
                Statement("DELETE FROM subscriptions WHERE subscription_id = %s", own),
            ]
        case pb.SubscriptionAdvanced():
            own = (event.subscription_id, list(event.replayed))
            return [
                Statement(
                    "UPDATE subscriptions SET logged_cursor = %s WHERE subscription_id = %s",
                    (event.cursor, event.subscription_id),
                ),
                Statement(
                    "DELETE FROM dead_deliveries WHERE subscription_id = %s AND number = ANY(%s)",
                    own,
                ),
            ]
        case pb.DeliveriesBuried():
            return [buried(event.subscription_id, letter) for letter in event.letters]
        case pb.DeliveriesReplayed():
            return [
                Statement(
                    "UPDATE dead_deliveries SET replayed = true "
                    "WHERE subscription_id = %s AND number = ANY(%s)",
                    (event.subscription_id, list(event.numbers)),
                )
            ]
        case pb.FeedEnabled():
            return [
                Statement(
                    "INSERT INTO feeds "
                    "(organisation_id, classification, begins_at, enabled_at_us, upcast) "
                    "VALUES (%s, %s, %s, %s, %s) ON CONFLICT (organisation_id) DO UPDATE "
                    "SET classification = EXCLUDED.classification, upcast = EXCLUDED.upcast",
                    (
                        event.organisation_id,
                        int(event.classification),
                        event.begins_at,
                        event.enabled_at_us,
                        event.upcast,
                    ),
                )
            ]
        case pb.FeedDisabled():
            own = (event.organisation_id,)
            return [Statement("DELETE FROM feeds WHERE organisation_id = %s", own)]
    return []


def buried(subscription_id: str, letter: pb.DeadDelivery) -> Statement:
    """A dead letter's row; one that was replayed in vain is dead again."""
    place = letter.position
    return Statement(
        "INSERT INTO dead_deliveries (subscription_id, number, event_id, type, topic, partition, "
        "record_offset, incarnation, attempts, reason) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (subscription_id, number) "
        "DO UPDATE SET replayed = false, attempts = EXCLUDED.attempts, reason = EXCLUDED.reason",
        (
            subscription_id,
            letter.number,
            letter.event_id,
            letter.type,
            place.topic,
            place.partition,
            place.offset,
            place.incarnation,
            letter.attempts,
            letter.reason,
        ),
    )


def stored(event: Message) -> bytes:
    """An event as its own bytes, the same on every machine."""
    return event.SerializeToString(deterministic=True)
