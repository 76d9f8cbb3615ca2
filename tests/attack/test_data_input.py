"""Hostile events through REST and gRPC, and ids that count once whatever dies in between."""

import asyncio
import json
import time

import pytest
from tests.doors import Doors

from loom.kit.errors import Failure
from loom.v1 import data_pb2 as pb

pytestmark = [pytest.mark.bus, pytest.mark.db, pytest.mark.timeout(240)]

EVENTS = "/api/v1/organisations/acme/events"
STEP = {"type": "model.training.checkpoint", "payload": {"epoch": 1, "step": 1}}
YEAR_2099_US = 4_070_908_800_000_000


@pytest.fixture(scope="module")
def doors(module_platform):
    found = Doors(module_platform)
    try:
        found.up()
        found.by_name["data"] = found.processes.add("data")
        asyncio.run(found.by_name["data"].healthy())
        yield found
    finally:
        found.down()


def step(**fields) -> dict:
    return {"event": STEP | fields}


REFUSED = {
    "self-causation": (step(event_id="x", causation_id="x"), 400, "event.causation_id"),
    "a cause in the future": (step(causation_id="not-yet"), 409, "event.causation_id"),
    "2099": (step(occurred_at_us=str(YEAR_2099_US)), 400, "event.occurred_at_us"),
    "before 1970": (step(occurred_at_us="-1"), 400, "event.occurred_at_us"),
    "no such type": (step(type="no.such.type"), 409, "event.type"),
    "another organisation": (step(organisation_id="other"), 400, "event.organisation_id"),
    "another's project": (
        step(context={"project_id": "other.vision"}), 400, "event.context.project_id"),
    "a type with a path in it": (step(type="../../etc"), 400, "event.type"),
    "an address that is none": (
        step(context={"source_ip": "1.2.3.4.5"}), 400, "event.context.source_ip"),
    "33 tags": (step(metadata={"tags": [f"t{n}" for n in range(33)]}), 400, "event.metadata.tags"),
    "payload of another form": (
        step(payload={"epoch": "one", "step": 1}), 400, "event.payload.epoch"),
    "U+0000": ({"event": {"type": STEP["type"], "payload_json": '{"a":"\\u0000"}'}}, 400,
               "event.payload_json.a"),
    "half a surrogate": ({"event": {"type": STEP["type"], "payload_json": '{"a":"\\ud800"}'}},
                         400, "event.payload_json"),
    "a key twice": ({"event": {"type": STEP["type"], "payload_json": '{"a":1,"a":2}'}}, 400,
                    "event.payload_json"),
    "more than 256 KiB": (
        {"event": {"type": STEP["type"], "payload_json": json.dumps({"a": "x" * 262_144})}}, 400,
        "event.payload_json"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_hostile_event_is_refused_by_its_field(doors, what):
    body, status, field = REFUSED[what]
    answer = doors.root.post(EVENTS, body)
    assert (answer.status_code, answer.json()["field"]) == (status, field), answer.text


def test_bytes_that_are_no_text_are_refused(doors):
    body = b'{"event": {"type": "job.completed", "payload_json": "\xff\xfe"}}'
    assert doors.root.post(EVENTS, body).status_code == 400


def test_ten_megabytes_are_refused_at_the_door(doors):
    body = json.dumps({"event": STEP | {"payload": {"a": "x" * 10_485_760}}}).encode()
    assert doors.root.post(EVENTS, body).status_code == 413


def test_a_batch_of_a_thousand_and_one_is_refused(doors):
    answer = doors.root.post(f"{EVENTS}/batch", {"events": [STEP] * 1001})
    assert (answer.status_code, answer.json()["field"]) == (400, "events"), answer.text


def test_a_batch_that_no_record_batch_holds_is_refused_whole(doors):
    # What the log says beside an event comes on top of what the request may take.
    heavy = STEP | {"payload": {"epoch": 1, "step": 1, "note": "x" * 3_900}}
    answer = doors.root.post(f"{EVENTS}/batch", {"events": [heavy] * 1000})
    assert answer.status_code == 400 and "bytes" in answer.json()["detail"], answer.text


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (pb.NewEvent(event_id="x", causation_id="x"), "INVALID_ARGUMENT"),
        (pb.NewEvent(causation_id="not-yet"), "FAILED_PRECONDITION"),
        (pb.NewEvent(occurred_at_us=YEAR_2099_US), "INVALID_ARGUMENT"),
        (pb.NewEvent(payload_json="x" * 300_000), "INVALID_ARGUMENT"),
        (pb.NewEvent(payload_json='{"epoch": -1, "step": 1}'), "INVALID_ARGUMENT"),
        (pb.NewEvent(organisation_id="other"), "INVALID_ARGUMENT"),
    ],
    ids=["self-causation", "future cause", "2099", "too large", "schema", "other organisation"],
)
def test_grpc_refuses_the_same(doors, event, code):
    whole = pb.NewEvent(type=STEP["type"], payload_json='{"epoch":1,"step":1}')
    whole.MergeFrom(event)
    request = pb.AppendEventRequest(organisation_id="acme", event=whole)
    with pytest.raises(Failure) as refused:
        doors.tell(doors.root, request, f"bad-{time.monotonic_ns()}")
    assert refused.value.code == code


def test_another_tenant_is_told_nothing(doors):
    answer = doors.eve.post(EVENTS, step())
    assert answer.status_code == 404
    nowhere = doors.eve.post("/api/v1/organisations/nobody/events", step())
    assert nowhere.status_code == 404
    assert answer.json()["detail"].replace("acme", "nobody") == nowhere.json()["detail"]
    schemas = "/api/v1/organisations/acme/schemas"
    assert doors.eve.http.get(schemas).status_code == 404


def test_a_member_of_a_project_appends_to_it_only(doors):
    mine = step(context={"project_id": "acme.vision"})
    assert doors.ada.post(EVENTS, mine).status_code == 201
    assert doors.ada.post(EVENTS, step()).status_code == 403


def test_what_the_door_writes_cannot_be_sent(doors):
    forged = {"event": STEP | {"event_id": "forged"}, "old": [{"event_id": "forged", "digest": ""}]}
    answer = doors.root.post(EVENTS, forged)
    assert answer.status_code == 201 and answer.json()["events_processed"] == 1, answer.text


def test_ids_count_once_over_kills_and_restarts(doors):
    events = [STEP | {"event_id": f"once-{n}", "stream": "once"} for n in range(300)]
    first = doors.root.post(f"{EVENTS}/batch", {"events": events}).json()
    assert (first["events_processed"], first["duplicates"]) == (300, 0)
    handed = [STEP | {"event_id": f"later-{n}", "stream": "later"} for n in range(450)]
    batches = "/api/v1/organisations/acme/event-batches"
    answer = doors.root.post(batches, {"events": handed, "max_wait_ms": 3000})
    assert answer.status_code == 202, answer.text
    batch = f"{batches}/{answer.json()['batch_id']}"
    doors.by_name["data"].kill()
    doors.by_name["data"] = doors.processes.add("data")
    asyncio.run(doors.by_name["data"].healthy())
    again = doors.root.post(f"{EVENTS}/batch", {"events": events}).json()
    assert (again["events_processed"], again["duplicates"]) == (0, 300)
    assert [one["position"] for one in again["events"]] == [
        one["position"] for one in first["events"]
    ]
    found = doors.root.http.get(batch).json()
    while not found["finished"]:
        time.sleep(0.1)
        found = doors.root.http.get(batch).json()
    assert (found["events_processed"], found["pending"], found["refused"]) == (450, 0, [])
    stream = [one for one in doors.records("data") if one.value and b"acme/later" in one.value]
    assert len(stream) == 450
