"""Subscriptions, their dead letters, and feeds; those of others are answered like unknown ones."""

from typing import Any, NamedTuple

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import common_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import cursor as cursors
from loomos.loomdb import progress
from loomos.loomdb.cursor import Place, Vector
from loomos.loomdb.state import PLATFORM

__all__ = [
    "FEED_TOPIC",
    "Kept",
    "feeds_on",
    "get_subscription",
    "kept",
    "letters_again",
    "letters_behind",
    "list_dead_deliveries",
    "list_feeds",
    "list_subscriptions",
    "progress_name",
    "unknown",
]

PAGE = 100
FEED_TOPIC = "loomos.feed."
Db = psycopg.AsyncConnection[Any]


class Kept(NamedTuple):
    """A subscription as its row keeps it."""

    created: pb.SubscriptionCreated
    cursor: str
    """What the log last heard of its consumers."""


def progress_name(subscription_id: str) -> str:
    """Under which name the position of a subscription or feed is stored."""
    return f"stream:{subscription_id}"


def unknown(subscription_id: str) -> Rejected:
    """The answer about a subscription that is not there, or that is not the caller's."""
    return Rejected(Code.NOT_FOUND, f"no subscription {subscription_id!r}", "subscription_id")


def may_see(organisation: str, caller: Caller, action: str) -> bool:
    """Whether the caller may do this with an organisation's subscriptions."""
    scope = caller.scope(action)
    return scope.all or organisation in scope.organisations


async def kept(organisation: str, subscription_id: str, db: Db) -> Kept | None:
    """One subscription of an organisation; None where it has none of this id."""
    found = await db.execute(
        "SELECT created, logged_cursor FROM subscriptions "
        "WHERE subscription_id = %s AND organisation_id = %s",
        (subscription_id, organisation),
    )
    row = await found.fetchone()
    if row is None:
        return None
    return Kept(pb.SubscriptionCreated.FromString(row["created"]), row["logged_cursor"])


async def get_subscription(
    request: pb.GetSubscriptionRequest, caller: Caller, db: Db
) -> pb.Subscription:
    """One subscription and how far it is."""
    if may_see(request.organisation_id, caller, "GetSubscription"):
        for one in await described(request.organisation_id, request.subscription_id, db):
            return one
    raise unknown(request.subscription_id)


async def list_subscriptions(
    request: pb.ListSubscriptionsRequest, caller: Caller, db: Db
) -> pb.SubscriptionPage:
    """The subscriptions of an organisation, by name."""
    if not may_see(request.organisation_id, caller, "ListSubscriptions"):
        return pb.SubscriptionPage()
    return pb.SubscriptionPage(subscriptions=await described(request.organisation_id, "", db))


async def described(organisation: str, subscription_id: str, db: Db) -> list[pb.Subscription]:
    """Subscriptions as the contract says them; of one id, or all of the organisation."""
    found = await db.execute(
        "SELECT s.created, s.logged_cursor, p.base, (SELECT count(*) FROM dead_deliveries d "
        "  WHERE d.subscription_id = s.subscription_id AND NOT d.replayed) AS dead "
        "FROM subscriptions s LEFT JOIN positions p "
        "  ON p.projection = 'stream:' || s.subscription_id "
        "WHERE s.organisation_id = %s AND %s IN ('', s.subscription_id) ORDER BY s.name",
        (organisation, subscription_id),
    )
    return [subscription_of(row) for row in await found.fetchall()]


def subscription_of(row: dict[str, Any]) -> pb.Subscription:
    """A row as the contract says it."""
    event = pb.SubscriptionCreated.FromString(row["created"])
    logged, incarnations = cursors.parse(row["logged_cursor"])
    stored, newer = cursors.parse(progress.parse(row["base"] or "")[0])
    return pb.Subscription(
        subscription_id=event.subscription_id,
        organisation_id=event.organisation_id,
        name=event.name,
        selection=event.selection,
        ack_deadline_ms=event.ack_deadline_ms,
        deliveries_max=event.deliveries_max,
        created_by=event.created_by,
        created_at_us=event.created_at_us,
        cursor=cursors.text_of(cursors.later(logged, stored), incarnations | newer),
        dead=row["dead"],
    )


async def list_dead_deliveries(
    request: pb.ListDeadDeliveriesRequest, caller: Caller, db: Db
) -> pb.DeadDeliveryPage:
    """A page of dead letters, oldest first."""
    if not may_see(request.organisation_id, caller, "ListDeadDeliveries") or not await kept(
        request.organisation_id, request.subscription_id, db
    ):
        raise unknown(request.subscription_id)
    limit = request.limit or PAGE
    found = await db.execute(
        "SELECT * FROM dead_deliveries WHERE subscription_id = %s AND number > %s "
        "AND NOT replayed ORDER BY number LIMIT %s",
        (request.subscription_id, request.cursor, limit + 1),
    )
    rows = await found.fetchall()
    page = pb.DeadDeliveryPage(letters=[letter_of(row) for row in rows[:limit]])
    if len(rows) > limit:
        page.next_cursor = page.letters[-1].number
    return page


def letter_of(row: dict[str, Any]) -> pb.DeadDelivery:
    """A dead letter as the contract says it."""
    return pb.DeadDelivery(
        number=row["number"],
        event_id=row["event_id"],
        type=row["type"],
        position=common_pb2.Position(
            topic=row["topic"],
            partition=row["partition"],
            offset=row["record_offset"],
            incarnation=row["incarnation"],
        ),
        attempts=row["attempts"],
        reason=row["reason"],
    )


async def letters_again(subscription_id: str, limit: int, db: Db) -> list[dict[str, Any]]:
    """Dead letters that are to be delivered again."""
    found = await db.execute(
        "SELECT number, topic, partition, record_offset FROM dead_deliveries "
        "WHERE subscription_id = %s AND replayed ORDER BY number LIMIT %s",
        (subscription_id, limit),
    )
    return await found.fetchall()


async def letters_behind(subscription_id: str, begin: Vector, db: Db) -> set[tuple[Place, int]]:
    """The places of dead letters behind the one from which a reader goes on."""
    found = await db.execute(
        "SELECT topic, partition, record_offset FROM dead_deliveries WHERE subscription_id = %s",
        (subscription_id,),
    )
    places = [((r["topic"], r["partition"]), r["record_offset"]) for r in await found.fetchall()]
    return {(place, offset) for place, offset in places if offset >= begin.get(place, 0)}


async def list_feeds(request: pb.ListFeedsRequest, caller: Caller, db: Db) -> pb.FeedPage:
    """The feeds that are on: one's own, or all of them for the platform."""
    own = request.organisation_id
    if not may_see(own, caller, "ListFeeds"):
        return pb.FeedPage()
    found = await feeds_on(db)
    return pb.FeedPage(
        feeds=[feed_of(row) for row in found if own in (PLATFORM, row["organisation_id"])]
    )


async def feeds_on(db: Db) -> list[dict[str, Any]]:
    """The rows of all feeds that are on."""
    found = await db.execute(
        "SELECT f.*, p.base FROM feeds f LEFT JOIN positions p "
        "ON p.projection = 'stream:feed-' || f.organisation_id ORDER BY f.organisation_id"
    )
    return await found.fetchall()


def feed_of(row: dict[str, Any]) -> pb.Feed:
    """A feed as the contract says it."""
    organisation = row["organisation_id"]
    return pb.Feed(
        organisation_id=organisation,
        topic=f"{FEED_TOPIC}{organisation}",
        principal=f"feed.{organisation}",
        classification=row["classification"],
        enabled_at_us=row["enabled_at_us"],
        cursor=row["base"] or row["begins_at"],
        upcast=row["upcast"],
    )
