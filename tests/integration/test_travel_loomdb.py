"""What LoomDB lists of its own it lists as of a moment too, also how far readers were."""

import pytest
from tests.appending import append
from tests.integration.conftest import writing
from tests.travelling import travelling

from loom.kit.caller import Scope
from loom.log import envelope
from loom.log.clock import now_us
from loom.log.envelope import Origin
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import query
from loomos.loomdb.main import SERVICE

AGO_US = 60_000_000
SUBSCRIPTION = "subscription-acme-" + "a" * 20
MADE_EVENTS = (
    pb.SubscriptionCreated(
        subscription_id=SUBSCRIPTION,
        organisation_id="acme",
        name="billing",
        begins_at="loomos.data:0:0:0",
    ),
)


class Reader:
    """Who may see all of acme's."""

    principal = "user:usr-acme-a"
    organisation_id = "acme"

    def scope(self, action: str) -> Scope:
        return Scope(False, ["acme"], [])


@pytest.fixture
async def travels(fresh_log, fresh_database, bus, settings):
    async with travelling(SERVICE, bus, settings("loomdb")) as found:
        yield found


async def test_subscriptions_feeds_and_rules_are_listed_as_of_a_moment(travels, bus):
    at_us = now_us() - AGO_US
    origin = Origin(f"/loomos/{SERVICE.name}", "acme", Reader.principal, "c-1", bytes(32),
                    at_us, at_us, "c-1", "")  # fmt: skip
    async with writing(bus, SERVICE.topic) as writer:
        await append(writer, [envelope.draft(list(MADE_EVENTS), [1], origin)])
    caller = Reader()
    for moment, names in ((at_us - 1, []), (now_us(), ["billing"])):
        async with travels.at(moment) as db:
            listed = await query.list_subscriptions(
                pb.ListSubscriptionsRequest(organisation_id="acme"), caller, db
            )
            assert [one.name for one in listed.subscriptions] == names
            feeds = await query.list_feeds(pb.ListFeedsRequest(organisation_id="acme"), caller, db)
            assert not feeds.feeds
            rules = await query.list_alert_rules(
                pb.ListAlertRulesRequest(organisation_id="acme"), caller, db
            )
            assert not rules.rules
    assert listed.subscriptions[0].cursor == "loomos.data:0:0:0"
