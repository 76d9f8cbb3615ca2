"""How long events are kept, what holds keep, and what the archive may do: the rules alone."""

import pytest
from google.protobuf.message import Message
from hypothesis import given as forall
from hypothesis import strategies as st
from tests.given import given

import loomos.loomdb
from loom.decider import Code, Position, Recorded
from loom.v1 import data_pb2, marketplace_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.retention import DAY_US, due_of, fits, reduced
from loomos.loomdb.state import HeldBy, Retention


def record(event: Message, type_name: str, stream: str = "s") -> Recorded:
    position = Position("loomos.data", 0, 7)
    return Recorded(
        event, type_name, "id", stream, 1, "acme", position, 5, "user:u", "c", "story", ""
    )


def appended(**more) -> data_pb2.EventAppended:
    return data_pb2.EventAppended(
        stream_id="acme/run-1",
        organisation_id="acme",
        event_id="e",
        event_type="model.training.start",
        payload=b'{"a":1}',
        **more,
    )


def when(event: Message, state: Retention, type_name: str = "event.appended"):
    return due_of(record(event, type_name), "acme", 0, state)


def rules(*given_rules: pb.RetentionRule) -> Retention:
    return Retention(rules={"acme": list(given_rules)})


REGULATED = data_pb2.AuditContext(compliance_level="SOC2_TYPE2")
OVERRIDE = data_pb2.EventMetadata(retention_override_days=30)


@pytest.mark.parametrize(
    ("event", "state", "days"),
    [
        (appended(), rules(), (365, 455, 2555)),
        (appended(context=REGULATED), rules(), (365, 455, 3650)),
        (appended(context=REGULATED, metadata=OVERRIDE), rules(), (365, 455, 30)),
        (
            appended(),
            rules(
                pb.RetentionRule(type_pattern="data.*", retain_days=1),
                pb.RetentionRule(
                    type_pattern="model.*",
                    retain_days=100,
                    archive_after_days=10,
                    recompress_after_days=5,
                ),
                pb.RetentionRule(retain_days=7),
            ),
            (10, 15, 100),
        ),
        (
            appended(security=data_pb2.SecurityContext(data_classification="phi")),
            rules(pb.RetentionRule(classification="phi", retain_days=4000)),
            (365, 455, 4000),
        ),
        (
            appended(context=REGULATED),
            rules(pb.RetentionRule(type_pattern="model.*", archive_after_days=1)),
            (1, 91, 3650),
        ),
        (appended(metadata=OVERRIDE), rules(pb.RetentionRule(retain_days=9)), (365, 455, 30)),
    ],
)
def test_the_first_rule_that_fits_counts_and_an_override_wins(event, state, days):
    found = when(event, state)
    assert (found.archive_us, found.recompress_us, found.delete_us) == tuple(
        number * DAY_US for number in days
    )
    archive, recompress, delete = (number * DAY_US for number in days)
    assert not found.may_archive(archive - 1) and found.may_archive(archive)
    assert not found.may_recompress(recompress - 1) and found.may_recompress(recompress)
    assert not found.may_delete(delete - 1) and found.may_delete(delete)


def test_what_states_are_folded_from_is_never_deleted():
    event = marketplace_pb2.PricePublished(organisation_id="acme")
    found = when(event, rules(pb.RetentionRule(retain_days=1)), "price.published")
    assert found.delete_us == 0
    assert not found.may_delete(10**18)
    assert found.may_leave(10**18)


@pytest.mark.parametrize(
    ("hold", "kept"),
    [
        (HeldBy("acme", "", "", ""), True),
        (HeldBy("platform", "", "", ""), True),
        (HeldBy("other", "", "", ""), False),
        (HeldBy("acme", "person-7", "", ""), True),
        (HeldBy("acme", "run-1", "", ""), True),
        (HeldBy("acme", "person-8", "", ""), False),
        (HeldBy("acme", "", "case-1", ""), True),
        (HeldBy("acme", "", "case-2", ""), False),
        (HeldBy("acme", "", "", "model.*"), True),
        (HeldBy("acme", "", "", "data.*"), False),
        (HeldBy("acme", "person-7", "case-2", ""), False),
    ],
)
def test_a_hold_wins_over_everything_that_it_names(hold, kept):
    state = rules(pb.RetentionRule(retain_days=1, archive_after_days=1))
    state.holds["hold-1"] = hold
    found = when(appended(data_subject="person-7", correlation_id="case-1"), state)
    late = 10**18
    assert found.hold_id == ("hold-1" if kept else "")
    assert found.may_archive(late)
    for allowed in (found.may_leave(late), found.may_recompress(late), found.may_delete(late)):
        assert allowed is not kept


@forall(
    st.integers(0, 4000),
    st.integers(0, 4000),
    st.integers(0, 4000),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_nothing_happens_early_and_holds_only_ever_forbid(retain, archive, later, day, held):
    rule = pb.RetentionRule(
        retain_days=retain, archive_after_days=archive, recompress_after_days=later
    )
    state = rules(rule)
    free = when(appended(), state)
    if held:
        state.holds["hold-1"] = HeldBy("acme", "", "", "")
    found = when(appended(), state)
    now = day * DAY_US
    assert found.may_delete(now) <= free.may_delete(now)
    assert found.may_leave(now) <= found.may_archive(now)
    if found.may_delete(now):
        assert day >= (retain or 2555)
    if found.may_archive(now):
        assert day >= (archive or 365)


def test_patterns():
    assert fits("", "a.b") and fits("*", "a.b") and fits("a.*", "a.b") and fits("a.b", "a.b")
    assert not fits("a.*", "ab.c") and not fits("a", "a.b") and not fits("b.*", "a.b")


def test_what_stays_of_a_deleted_event_is_what_the_state_is_folded_from():
    event = appended(
        data_subject="person-7", context=REGULATED, digest=b"d", append_id="a", appended_at_us=5
    )
    left = data_pb2.EventAppended.FromString(reduced(event))
    assert (left.stream_id, left.event_id, left.digest) == ("acme/run-1", "e", b"d")
    assert (left.append_id, left.appended_at_us, left.payload) == ("a", 5, b"{}")
    assert b"person-7" not in reduced(event) and b"SOC2" not in reduced(event)


def batch(*events: data_pb2.NewEvent) -> data_pb2.BatchAccepted:
    return data_pb2.BatchAccepted(batch_id="batch-1", organisation_id="acme", events=events)


def handed(name: str, **more) -> data_pb2.NewEvent:
    return data_pb2.NewEvent(event_id=name, type=f"model.{name}", payload_json='{"a":1}', **more)


def test_a_batch_is_kept_for_as_long_as_the_longest_kept_of_its_events():
    state = rules(
        pb.RetentionRule(type_pattern="model.a", retain_days=20, archive_after_days=9),
        pb.RetentionRule(type_pattern="model.*", retain_days=10, archive_after_days=3),
    )
    found = when(batch(handed("b"), handed("a"), handed("c")), state, "batch.accepted")
    assert (found.archive_us, found.delete_us) == (9 * DAY_US, 20 * DAY_US)
    assert found.policy == "rule model.a=20 days"
    own = handed("b", metadata=data_pb2.EventMetadata(retention_override_days=30))
    assert when(batch(handed("a"), own), state, "batch.accepted").delete_us == 30 * DAY_US
    regulated = when(batch(handed("a", context=REGULATED)), rules(), "batch.accepted")
    assert regulated.delete_us == 3650 * DAY_US


@pytest.mark.parametrize(
    ("hold", "kept"),
    [
        (HeldBy("acme", "person-7", "", ""), True),
        (HeldBy("acme", "run-1", "", ""), True),
        (HeldBy("acme", "batch-1", "", ""), True),
        (HeldBy("acme", "", "case-1", ""), True),
        (HeldBy("acme", "", "", "model.b"), True),
        (HeldBy("acme", "", "", "batch.*"), True),
        (HeldBy("acme", "person-8", "", ""), False),
        (HeldBy("acme", "person-7", "", "model.a"), False),
        (HeldBy("other", "", "", ""), False),
    ],
)
def test_a_hold_on_one_event_keeps_its_whole_batch(hold, kept):
    state = rules(pb.RetentionRule(retain_days=1, archive_after_days=1))
    state.holds["hold-1"] = hold
    held = handed("b", data_subject="person-7", correlation_id="case-1", stream="run-1")
    whole = record(batch(handed("a"), held), "batch.accepted", "batch-1")
    found = due_of(whole, "acme", 0, state)
    assert (found.hold_id, found.may_delete(10**18)) == ("hold-1" if kept else "", not kept)


def test_what_stays_of_a_deleted_batch_says_nothing_of_its_events():
    event = batch(handed("a", data_subject="person-7", context=REGULATED, digest=b"dig"))
    left = reduced(event)
    assert not [word for word in (b"person-7", b"SOC2", b'"a"', b"dig") if word in left]
    (one,) = data_pb2.BatchAccepted.FromString(left).events
    assert (one.event_id, one.type) == ("a", "model.a")


def told(first=0, after=10, **more) -> pb.ArchivedRange:
    base = f"0:{after}:1:{'0' * 32}:9:{'0' * 64}:5"
    fields = {"topic": "loomos.data", "partition": 0, "rows": after - first, **more}
    return pb.ArchivedRange(first_offset=first, next_offset=after, base_after=base, **fields)


def sealed(first=0, after=10, **more) -> pb.ArchiveSealed:
    return pb.ArchiveSealed(
        log_id="loomos.data-0", organisation_id="platform", range=told(first, after, **more)
    )


def platform(*events):
    return given(loomos.loomdb, *events, shard="platform")


def report(of: pb.ArchivedRange) -> pb.ReportArchivedRequest:
    return pb.ReportArchivedRequest(organisation_id="platform", range=of)


def shorten(offset: int) -> pb.ShortenLogRequest:
    return pb.ShortenLogRequest(
        organisation_id="platform", topic="loomos.data", partition=0, next_offset=offset
    )


def delete(*offsets: int, topic: str = "loomos.data") -> pb.DeleteArchivedRequest:
    return pb.DeleteArchivedRequest(
        organisation_id="platform", topic=topic, partition=0, first_offset=0, offsets=offsets
    )


def test_ranges_follow_each_other_and_a_repeated_report_changes_nothing():
    platform().when(report(told())).then(sealed())
    platform(sealed()).when(report(told())).then()
    platform(sealed()).when(report(told(10, 20))).then(sealed(10, 20))
    platform(sealed()).when(report(told(11, 20))).refused(Code.FAILED_PRECONDITION)
    platform(sealed()).when(report(told(0, 12))).refused(Code.FAILED_PRECONDITION, "range")
    platform().when(report(told(generation=1))).refused(Code.FAILED_PRECONDITION)
    platform(sealed()).when(report(told(generation=1))).one(pb.ArchiveReplaced)


def test_kafka_forgets_whole_archived_ranges_only_and_once():
    platform().when(shorten(10)).refused(Code.FAILED_PRECONDITION, "next_offset")
    platform(sealed()).when(shorten(9)).refused(Code.FAILED_PRECONDITION)
    after = platform(sealed()).when(shorten(10)).accepted()
    assert after.state.retention.begins == {("loomos.data", 0): 10}
    after.when(shorten(10)).then()


def test_only_users_events_are_deleted_and_only_where_kafka_has_forgotten_them():
    platform(sealed()).when(delete(3)).refused(Code.FAILED_PRECONDITION, "first_offset")
    gone = platform(sealed()).when(shorten(10)).accepted()
    gone.when(delete(3, topic="loomos.security")).refused(Code.FAILED_PRECONDITION, "topic")
    gone.when(delete(3, 10)).refused(Code.INVALID_ARGUMENT, "offsets")
    once = gone.when(delete(5, 3)).accepted()
    assert once.state.retention.deleted == {("loomos.data", 0, 0): frozenset((3, 5))}
    once.when(delete(3)).then()


def test_rules_and_holds():
    acme = given(loomos.loomdb, shard="acme")
    rule = pb.RetentionRule(type_pattern="job.*", retain_days=10, archive_after_days=5)
    command = pb.SetLogRetentionRequest(organisation_id="acme", rules=[rule])
    after = acme.when(command).then(pb.LogRetentionSet(organisation_id="acme", rules=[rule]))
    after.when(command).then()
    wrong = pb.RetentionRule(retain_days=5, archive_after_days=10)
    command = pb.SetLogRetentionRequest(organisation_id="acme", rules=[wrong])
    acme.when(command).refused(Code.INVALID_ARGUMENT, "rules[0].retain_days")

    place = pb.PlaceHoldRequest(
        organisation_id="acme", scope=pb.HoldScope(subject="p"), reason="case 4"
    )
    event = acme.when(place).one(pb.HoldPlaced)
    held = acme.when(place).accepted()
    release = pb.ReleaseHoldRequest(
        organisation_id="acme", hold_id=event.hold_id, reason="case closed"
    )
    free = held.when(release).accepted()
    assert free.state.retention.holds == {}
    free.when(release).refused(Code.NOT_FOUND, "hold_id")


def test_a_run_ends_once_and_is_asked_for_until_then():
    asked = pb.RunArchiveRequest(organisation_id="platform", partition=-1)
    event = platform().when(asked).one(pb.ArchiveRequested)
    waiting = platform(event)
    over = pb.ReportArchiveRunRequest(
        organisation_id="platform", run_id=event.run_id, archived=2, failed=["loomos.data-0"]
    )
    ran = waiting.when(over).one(pb.ArchiveRunFinished)
    assert (ran.archived, ran.failed) == (2, ["loomos.data-0"])
    assert next(iter(waiting.when(asked).accepted().state.retention.runs)) == event.run_id
    platform(event, ran).when(over).then()
    platform().when(over).then()


def test_a_partition_without_a_topic_is_no_place_to_run():
    command = pb.RunArchiveRequest(organisation_id="platform", partition=0)
    platform().when(command).refused(Code.INVALID_ARGUMENT, "topic")
    command = pb.RunArchiveRequest(organisation_id="platform", partition=-1)
    assert platform().when(command).one(pb.ArchiveRequested).partition == -1
