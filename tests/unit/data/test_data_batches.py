"""Batches that are handed over: nothing is lost, everything is told."""

from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from tests.given import NOW_US, Given, given

import loomos.data
from loom.decider import Code
from loom.v1 import common_pb2
from loom.v1 import data_pb2 as pb
from loomos.data.state import due

TICK = common_pb2.TickRequest(shard_id="acme")


def steps(*ids: str) -> list[pb.NewEvent]:
    return [
        pb.NewEvent(
            event_id=name, type="model.training.checkpoint", payload_json='{"epoch":0,"step":0}'
        )
        for name in ids
    ]


def submitted(*ids: str, wait_ms: int = 0) -> pb.SubmitBatchRequest:
    return pb.SubmitBatchRequest(organisation_id="acme", events=steps(*ids), max_wait_ms=wait_ms)


def organisation() -> Given:
    return given(loomos.data, shard="acme")


def test_acceptance_holds_the_events_and_appends_none():
    outcome = organisation().when(submitted("a", "b", wait_ms=5000), actor="user:ada")
    accepted = outcome.one(pb.BatchAccepted)
    assert len(outcome.found) == 1
    assert [one.event_id for one in accepted.events] == ["a", "b"]
    assert accepted.submitted_by == "user:ada"
    assert due(outcome.accepted().state) == NOW_US + 5_000_000


def test_nothing_is_appended_before_its_time():
    after = organisation().when(submitted("a", wait_ms=10)).accepted()
    after.when(TICK, at_us=NOW_US + 9_999).then()
    made = after.when(TICK, actor="service:data", at_us=NOW_US + 10_000)
    assert made.one(pb.EventAppended).appended_by == "service:test"
    assert made.one(pb.BatchProcessed).finished
    assert due(made.accepted().state) is None


def test_what_was_appended_meanwhile_is_told():
    after = organisation().when(submitted("a", "b", "c")).accepted()
    (other,) = steps("b")
    other.stream = "elsewhere"
    (same,) = steps("c")
    now = pb.AppendEventsRequest(organisation_id="acme", events=[other, same])
    told = after.when(now, command_id="c-2").accepted().when(TICK).one(pb.BatchProcessed)
    assert (told.events_processed, told.duplicates, told.done) == (1, 1, 3)
    assert [(one.index, one.code) for one in told.refused] == [(1, Code.ALREADY_EXISTS)]


def test_an_event_that_breaks_a_rule_keeps_the_batch_out():
    command = submitted("a", "b")
    command.events[1].payload_json = "{}"
    organisation().when(command).refused(Code.INVALID_ARGUMENT, "events[1].payload")


def test_so_many_batches_wait_and_no_more():
    after = organisation()
    for number in range(64):
        command = submitted(f"e-{number}", wait_ms=5000)
        after = after.when(command, command_id=f"c-{number}").accepted()
    after.when(submitted("more"), command_id="c-64").refused(Code.RESOURCE_EXHAUSTED)


@drawn(st.lists(st.integers(0, 400), min_size=1, max_size=600))
@settings(max_examples=20, deadline=None)
def test_slices_append_each_id_once_and_count_every_event(numbers):
    after = organisation().when(submitted(*(f"e-{one}" for one in numbers))).accepted()
    appended: list[str] = []
    counted = 0
    at_us = NOW_US
    while due(after.state) is not None:
        at_us += 1
        outcome = after.when(TICK, at_us=at_us)
        told = outcome.one(pb.BatchProcessed)
        appended += [one.event_id for one in outcome.found if isinstance(one, pb.EventAppended)]
        counted += told.events_processed + told.duplicates + len(told.refused)
        assert len(outcome.found) <= 201
        after = outcome.accepted()
    assert sorted(appended) == sorted({f"e-{one}" for one in numbers})
    assert counted == len(numbers)
