"""Appending: form, time, cause, versions, and that an id counts once."""

import json

import pytest
from tests.given import NOW_US, Given, given

import loomos.data
from loom import payload
from loom.decider import Code
from loom.v1 import data_pb2 as pb

STEP = "model.training.checkpoint"


def organisation(*events) -> Given:
    return given(loomos.data, *events, shard="acme")


def event(**fields) -> pb.NewEvent:
    told = {"type": STEP, "payload_json": '{"epoch":1,"step":2}', "event_id": "e-1"} | fields
    return pb.NewEvent(**told)


def one(**fields) -> pb.AppendEventRequest:
    return pb.AppendEventRequest(organisation_id="acme", event=event(**fields))


def many(*events: pb.NewEvent, **fields) -> pb.AppendEventsRequest:
    return pb.AppendEventsRequest(organisation_id="acme", events=events, **fields)


def test_an_event_stands_in_its_stream_with_all_that_was_said():
    context = pb.AuditContext(user_id="u", source_ip="10.0.1.50", project_id="nlp_2024")
    metadata = pb.EventMetadata(tags=["nlp"], priority="high", retention_override_days=3650)
    command = one(stream="run-7", context=context, metadata=metadata, occurred_at_us=5)
    appended = organisation().when(command).one(pb.EventAppended)
    assert appended.stream_id == "acme/run-7"
    assert appended.schema_version == "1.0.0"
    assert json.loads(appended.payload) == {"epoch": 1, "step": 2}
    assert (appended.context, appended.metadata) == (context, metadata)
    assert (appended.occurred_at_us, appended.appended_at_us) == (5, NOW_US)


def test_the_same_content_as_struct_and_as_text_is_one_event():
    after = organisation().when(one()).accepted()
    command = one(payload_json="")
    command.event.payload.update({"step": 2.0, "epoch": 1})
    after.when(command).then()


def test_other_content_under_a_known_id_is_refused_by_name():
    after = organisation().when(one()).accepted()
    refusal = after.when(one(stream="elsewhere")).refused(Code.ALREADY_EXISTS, "event.event_id")
    assert "'e-1'" in refusal.message


def test_a_repeated_event_in_one_batch_counts_once():
    found = organisation().when(many(event(), event(), event(event_id="e-2"))).found
    assert [one.event_id for one in found] == ["e-1", "e-2"]


def test_an_id_that_the_state_forgot_is_known_from_the_command():
    appended = organisation().when(one()).one(pb.EventAppended)
    old = [pb.OldEvent(event_id="e-1", digest=appended.digest)]
    organisation().when(many(event(), old=old)).then()
    old = [pb.OldEvent(event_id="e-1", digest=bytes(16))]
    organisation().when(many(event(), old=old)).refused(Code.ALREADY_EXISTS, "events[0].event_id")


def test_ids_are_forgotten_after_a_month_and_no_earlier():
    month_us = 31 * 24 * 3600 * 1_000_000
    after = organisation().when(one()).accepted()
    for later_us, known in ((month_us, 2), (month_us + 1, 1)):
        state = after.when(one(event_id="e-2"), at_us=NOW_US + later_us).accepted().state
        assert len(state.known) == known
        assert state.forgotten_us == (0 if known == 2 else NOW_US)


def test_all_of_a_batch_or_nothing():
    broken = event(event_id="e-2", payload_json='{"epoch":"one","step":-1}')
    refusal = (
        organisation()
        .when(many(event(), broken))
        .refused(Code.INVALID_ARGUMENT, "events[1].payload.epoch")
    )
    assert "events[1].payload.step: the value is less than the minimum of 0" in refusal.message


def test_values_are_not_repeated_in_a_refusal():
    refusal = (
        organisation()
        .when(one(payload_json='{"epoch":"Jane Roe","step":1}'))
        .refused("INVALID_ARGUMENT")
    )
    assert "Jane" not in refusal.message


def test_streams_stand_at_the_versions_that_the_caller_saw():
    after = (
        organisation().when(many(event(stream="a"), event(stream="b", event_id="e-2"))).accepted()
    )
    seen = [pb.StreamVersion(stream="a", version=1), pb.StreamVersion(stream="c", version=0)]
    after.when(many(event(stream="c", event_id="e-3"), expected=seen)).accepted()
    seen[1].version = 2
    command = many(event(stream="c", event_id="e-3"), expected=seen)
    after.when(command).refused(Code.ABORTED, "expected[1].version")
    command = one(event_id="e-9", stream="a")
    command.expected_stream_version = 0
    after.when(command).refused(Code.ABORTED, "expected_stream_version")


def test_a_batch_over_two_organisations_is_refused_with_the_reason():
    command = many(event(), event(event_id="e-2", organisation_id="other"))
    refusal = (
        organisation().when(command).refused(Code.INVALID_ARGUMENT, "events[1].organisation_id")
    )
    assert "partition" in refusal.message


@pytest.mark.parametrize(
    ("at_us", "allowed"),
    [(0, True), (1, True), (NOW_US + 300_000_000, True), (NOW_US + 300_000_001, False),
     (4_070_908_800_000_000, False)],
    ids=["not said", "1970", "five minutes ahead", "more", "2099"],
)  # fmt: skip
def test_time_is_bounded(at_us, allowed):
    outcome = organisation().when(one(occurred_at_us=at_us))
    if allowed:
        outcome.accepted()
    else:
        outcome.refused(Code.INVALID_ARGUMENT, "event.occurred_at_us")


def test_a_cause_comes_before_its_effect():
    first = organisation().when(one()).accepted()
    first.when(one(event_id="e-2", causation_id="e-1")).accepted()
    first.when(one(event_id="e-2", causation_id="e-2")).refused(
        Code.INVALID_ARGUMENT, "event.causation_id"
    )
    first.when(one(event_id="e-2", causation_id="e-3")).refused(
        Code.FAILED_PRECONDITION, "event.causation_id"
    )
    first.when(one(event_id="e-2", causation_id="0" * 32 + ".1")).accepted()
    effect, cause = event(event_id="e-3", causation_id="e-4"), event(event_id="e-4")
    first.when(many(cause, effect)).accepted()
    refusal = first.when(many(effect, cause)).refused(Code.INVALID_ARGUMENT)
    assert "later in the batch" in refusal.message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"context": pb.AuditContext(source_ip="999.1.1.1")}, "event.context.source_ip"),
        ({"context": pb.AuditContext(project_id="other.vision")}, "event.context.project_id"),
        ({"type": "no.such.type"}, "event.type"),
        ({"schema_version": "9.0.0"}, "event.schema_version"),
        ({"payload_json": "[]"}, "event.payload_json"),
        ({"payload_json": '{"a":1,"a":2}'}, "event.payload_json"),
        ({"payload_json": '{"epoch":NaN}'}, "event.payload_json"),
        ({"payload_json": '{"epoch":1e999}'}, "event.payload_json"),
        ({"payload_json": '{"epoch":18446744073709551616}'}, "event.payload_json"),
        ({"payload_json": '{"note":"\\ud800"}'}, "event.payload_json"),
        ({"payload_json": '{"note":"\\u0000"}'}, "event.payload_json.note"),
        ({"payload_json": '{"a":' * 30 + "1" + "}" * 30}, None),
        ({"payload_json": '{"a":' * 5000}, "event.payload_json"),
        ({"payload_json": json.dumps({"a": "x" * payload.BYTES_MAX})}, "event.payload_json"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_names_its_field(fields, field):
    outcome = organisation().when(one(**fields))
    assert outcome.found.code in (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION)
    assert field is None or outcome.found.field == field
    assert len(outcome.found.message) < 1000


def test_a_number_that_a_double_cannot_hold_is_refused_where_it_came_as_one():
    command = one(payload_json="")
    command.event.payload.update({"epoch": 2**60, "step": 1})
    refusal = organisation().when(command).refused(Code.INVALID_ARGUMENT, "event.payload.epoch")
    assert "payload_json" in refusal.message
    organisation().when(one(payload_json=f'{{"epoch":{2**60},"step":1}}')).accepted()


def test_personal_fields_need_somebody_whose_they_are():
    granted = {
        "type": "security.access.granted",
        "payload_json": '{"user_id":"jane","resource":"r","action":"read"}',
    }
    organisation().when(one(**granted)).refused(Code.INVALID_ARGUMENT, "event.data_subject")
    found = organisation().when(one(**granted, data_subject="user-7")).one(pb.EventAppended)
    assert list(found.sealed_paths) == ["/user_id"]
    asked = {"type": "model.inference.request", "payload_json": '{"model_name":"m"}'}
    assert not organisation().when(one(**asked)).one(pb.EventAppended).sealed_paths


def test_the_one_project_that_all_events_name_is_what_is_touched():
    from loomos.data.decide import resource
    from loomos.data.state import initial

    def touched(*projects: str):
        events = [event(context=pb.AuditContext(project_id=name)) for name in projects]
        return resource(many(*events), initial("acme"))

    assert touched("acme.vision", "acme.vision") == ("project", "acme.vision")
    assert touched("acme.vision", "acme.audio") == ("organisation", "acme")
    assert touched("other.vision") == ("organisation", "acme")
    assert touched("nlp_2024") == ("organisation", "acme")
