"""What an organisation may do with subscriptions and feeds; cursors; who sees what."""

import pytest
from tests.given import given

import loomos.loomdb as loomdb
from loom.decider import Code, Rejected
from loom.kit.caller import Scope
from loom.v1 import common_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import cursor
from loomos.loomdb.sight import CLASSES, Sight, rank_of, users_rank

ID = "subscription-acme-aaaaaaaaaaaaaaaaaaaa"
CREATED = pb.SubscriptionCreated(subscription_id=ID, organisation_id="acme", name="billing")
INTERNAL = common_pb2.DATA_CLASSIFICATION_INTERNAL


def acme(*events):
    return given(loomdb, *events, shard="acme")


def create(**fields):
    return pb.CreateSubscriptionRequest(organisation_id="acme", name="billing", **fields)


def buried(*numbers):
    letters = [pb.DeadDelivery(number=number, event_id="e") for number in numbers]
    return pb.DeliveriesBuried(subscription_id=ID, organisation_id="acme", letters=letters)


def test_a_subscription_is_made_once_by_a_name():
    event = acme().when(create(), actor="user:ann").one(pb.SubscriptionCreated)
    assert (event.created_by, event.ack_deadline_ms, event.deliveries_max) == ("user:ann", 30000, 5)
    acme(CREATED).when(create()).refused(Code.ALREADY_EXISTS, "name")
    many = [pb.SubscriptionCreated(subscription_id=f"s-{n}", name=f"n-{n}") for n in range(100)]
    acme(*many).when(create()).refused(Code.RESOURCE_EXHAUSTED)
    gone = pb.SubscriptionDeleted(subscription_id=ID, organisation_id="acme")
    acme(CREATED, gone).when(create()).accepted()


def test_what_a_subscription_selects_is_checked_before_it_is_made():
    acme().when(create(selection=pb.EventSelection(where=["nothing = 1"]))).refused(
        Code.INVALID_ARGUMENT, "selection.where[0]"
    )
    acme().when(create(ack_deadline_ms=5)).refused(Code.INVALID_ARGUMENT, "ack_deadline_ms")


def test_a_subscription_of_nobody_is_unknown():
    for command in (
        pb.DeleteSubscriptionRequest(organisation_id="acme", subscription_id=ID),
        pb.ReplayDeadDeliveriesRequest(organisation_id="acme", subscription_id=ID),
        pb.ReportProgressRequest(organisation_id="acme", subscription_id=ID),
        pb.ReportDeadDeliveriesRequest(organisation_id="acme", subscription_id=ID),
    ):
        acme().when(command).refused(Code.NOT_FOUND, "subscription_id")


def test_dead_letters_are_numbered_replayed_and_settled_or_dead_again():
    command = pb.ReportDeadDeliveriesRequest(organisation_id="acme", subscription_id=ID)
    command.letters.add(event_id="e1")
    command.letters.add(event_id="e2")
    event = acme(CREATED, buried(1)).when(command).one(pb.DeliveriesBuried)
    assert [letter.number for letter in event.letters] == [2, 3]
    after = acme(CREATED, buried(1), event)
    replay = pb.ReplayDeadDeliveriesRequest(organisation_id="acme", subscription_id=ID)
    replayed = after.when(replay).one(pb.DeliveriesReplayed)
    assert list(replayed.numbers) == [1, 2, 3]
    under_way = acme(CREATED, buried(1), event, replayed)
    under_way.when(replay).then()
    replay.numbers.append(9)
    after.when(replay).refused(Code.NOT_FOUND, "numbers")
    again = pb.ReportDeadDeliveriesRequest(organisation_id="acme", subscription_id=ID)
    again.letters.add(number=2, event_id="e1")
    event = under_way.when(again).one(pb.DeliveriesBuried)
    assert [letter.number for letter in event.letters] == [2]
    settled = pb.SubscriptionAdvanced(subscription_id=ID, replayed=[1, 3])
    rest = acme(CREATED, buried(1, 2, 3), replayed, settled)
    assert set(rest.state.subscriptions[ID].letters) == {2}


def test_a_feed_is_switched_on_changed_and_off():
    on = pb.EnableFeedRequest(organisation_id="acme", begins_at="loomos.data:0:1:0")
    event = acme().when(on).one(pb.FeedEnabled)
    assert (event.feed_id, event.classification) == ("feed-acme", INTERNAL)
    acme(event).when(on).then()
    on.classification = common_pb2.DATA_CLASSIFICATION_RESTRICTED
    changed = acme(event).when(on).one(pb.FeedEnabled)
    assert changed.begins_at == "", "a feed that is there goes on where it is"
    on.upcast = True
    raised = acme(event, changed).when(on).one(pb.FeedEnabled)
    acme(event, changed, raised).when(on).then()
    off = pb.DisableFeedRequest(organisation_id="acme")
    acme(event).when(off).one(pb.FeedDisabled)
    acme().when(off).refused(Code.NOT_FOUND)


def test_a_cursor_comes_back_as_it_went():
    vector = {("loomos.data", 0): 5, ("loomos.resource-manager", 3): 1, ("loomos.loomdb", 1): 0}
    text = cursor.text_of(vector, {("loomos.data", 0): 2})
    assert text == "loomos.data:0:4:2,loomos.resource-manager:3:0:0"
    found, incarnations = cursor.parse(text)
    assert found == {place: offset for place, offset in vector.items() if offset}
    assert incarnations["loomos.data", 0] == 2
    for bad in ("x", "loomos.data:0:1", f"{text},{text}", "loomos.data:0:-1:0", ","):
        with pytest.raises(Rejected):
            cursor.parse(bad)


NOBODY = Scope(False, [], [])
ACME = Scope(False, ["acme"], ["acme.vision"])


def test_sight_is_the_trail_or_open_events_of_users():
    auditor, reader = Sight("acme", ACME, ACME), Sight("acme", NOBODY, ACME)
    confidential = CLASSES.index("confidential")
    assert auditor.sees("acme", "", False, confidential)
    assert reader.sees("acme", "", True, 1)
    assert not reader.sees("acme", "", True, confidential)
    assert not reader.sees("acme", "", False, 0)
    assert not auditor.sees("other", "", True, 0)
    everything = Scope(True, [], [])
    assert not Sight("acme", everything, everything).sees("other", "", True, 0)
    assert Sight("platform", everything, everything).sees("other", "", True, 3)
    assert auditor.covers(reader) and not reader.covers(auditor)
    assert Sight("acme", NOBODY, NOBODY).nothing and not reader.nothing
    project = Sight("acme", NOBODY, Scope(False, [], ["acme.vision"]))
    assert reader.covers(project) and not project.covers(reader)


def test_a_word_that_is_not_known_classifies_like_the_highest():
    assert rank_of("") == CLASSES.index("internal")
    assert rank_of("Public") == 0
    assert rank_of("phi") == CLASSES.index("restricted")
    assert users_rank({"data_classification": "public", "access_level": "confidential"}) == 2
