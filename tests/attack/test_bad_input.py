"""Bad input through the public doors: the field is named, the log holds the refusal, no more."""

import copy
import json
import time
import uuid
from collections import Counter

import pytest
from tests.doors import Doors

from loom.kit.errors import Failure
from loom.log.judge import Kind
from loom.v1 import scheduler_pb2 as pb

pytestmark = [pytest.mark.bus, pytest.mark.db, pytest.mark.timeout(240)]

JOB = {
    "project_id": "acme.vision",
    "spec": {
        "name": "digits",
        "command": ["true"],
        "resources": {"cpu_milli": "1000", "memory_bytes": "1048576"},
    },
}
NOBODY = "job-local-" + "a" * 20


@pytest.fixture(scope="module")
def doors(module_platform):
    found = Doors(module_platform)
    try:
        found.up()
        yield found
    finally:
        found.down()


def with_value(path: str, value) -> dict:
    """The job with one field changed, named as `spec.resources.cpu_milli`."""
    body = copy.deepcopy(JOB)
    place = body
    *above, last = path.split(".")
    for name in above:
        place = place[name]
    place[last] = value
    return body


def left(doors, person) -> Counter[tuple[str, str]]:
    """Type and command id of every event that somebody caused anywhere."""
    return Counter(
        (one.type, one.command_id)
        for service in ("scheduler", "security", "resource-manager")
        for one in doors.events(service, person.principal)
    )


# What is no message of the contract never becomes a command: the log has the refusal.
NO_MESSAGE = {
    "unknown field": (with_value("spec.colour", "red"), "spec.colour"),
    "wrong type": (with_value("spec.resources.cpu_milli", "many"), "cpu_milli"),
    "a list for a text": (with_value("spec.name", ["digits"]), "name"),
    "1e308": (with_value("spec.resources.cpu_milli", 1e308), "cpu_milli"),
    "2^63": (with_value("spec.resources.memory_bytes", 2**63), "memory_bytes"),
    "a fraction": (with_value("spec.resources.cpu_milli", 0.5), "cpu_milli"),
    "NaN": (json.dumps(with_value("spec.resources.cpu_milli", float("nan"))).encode(), ""),
    "infinity": (json.dumps(with_value("spec.resources.cpu_milli", float("inf"))).encode(), ""),
    "a field twice": (json.dumps(JOB)[:-1].encode() + b', "project_id": "other.vision"}', ""),
    "no JSON": (b"\xff\xfe{}", ""),
    "deep": (b'{"spec":' * 5000 + b"1" + b"}" * 5000, ""),
}


@pytest.mark.parametrize("what", NO_MESSAGE)
def test_what_is_no_message_is_refused_and_leaves_one_refusal(doors, what):
    body, field = NO_MESSAGE[what]
    before = left(doors, doors.ada)
    answer = doors.ada.post("/api/v1/jobs", body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "INVALID_ARGUMENT"
    assert field in answer.json().get("field", answer.text)
    assert [kind for kind, _ in left(doors, doors.ada) - before] == ["command.refused"]


BROKEN_RULES = {
    "empty name": (with_value("spec.name", ""), "spec.name"),
    "1 MB name": (with_value("spec.name", "a" * 1_000_000), "spec.name"),
    "control character": (with_value("spec.name", "a\u0007b"), "spec.name"),
    "zero byte": (with_value("spec.command", ["true\u0000"]), "spec.command[0]"),
    "line separator": (with_value("spec.gpu_model", "a\u2028b"), "spec.gpu_model"),
    "path upwards": (with_value("spec.name", "../../etc/passwd"), "spec.name"),
    "input path upwards": (
        with_value("spec.inputs", [{"path": "../../etc/passwd", "content": "eA=="}]),
        "spec.inputs[0].path",
    ),
    "project upwards": (with_value("project_id", "acme.vision/.."), "project_id"),
    "negative": (with_value("spec.resources.cpu_milli", -1), "spec.resources.cpu_milli"),
    "2^63 - 1": (
        with_value("spec.resources.memory_bytes", 2**63 - 1), "spec.resources.memory_bytes",
    ),
    "no command": (with_value("spec.command", []), "spec.command"),
    "unknown priority": (with_value("spec.priority", 99), "spec.priority"),
    "too many tags": (with_value("spec.tags", {f"t{n}": "" for n in range(40)}), "spec.tags"),
    "no resources": (with_value("spec.resources", None), "spec.resources"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN_RULES)
def test_a_broken_rule_names_its_field_and_leaves_one_refusal(doors, what):
    body, field = BROKEN_RULES[what]
    before, command_id = left(doors, doors.ada), uuid.uuid4().hex
    answer = doors.ada.post("/api/v1/jobs", body, idempotency_key=command_id)
    assert answer.status_code == 400, answer.text
    assert answer.json()["field"] == field
    assert len(answer.content) < 20_000
    assert left(doors, doors.ada) - before == Counter([("command.refused", command_id)])


def test_an_unknown_field_over_grpc_is_named_by_its_number(doors):
    request = pb.SubmitJobRequest(project_id="acme.vision")
    request.MergeFromString(b"\xea\x04\x03abc")
    before, command_id = left(doors, doors.ada), uuid.uuid4().hex
    with pytest.raises(Failure, match="#77") as refused:
        doors.tell(doors.ada, request, command_id)
    assert refused.value.code == "INVALID_ARGUMENT"
    assert left(doors, doors.ada) - before == Counter([("command.refused", command_id)])


def test_a_command_id_used_again_with_other_content_is_refused_without_a_trace(doors):
    command_id = uuid.uuid4().hex
    first = doors.ada.post("/api/v1/jobs", JOB, idempotency_key=command_id)
    assert first.status_code == 201, first.text
    before = left(doors, doors.ada)
    again = doors.ada.post("/api/v1/jobs", JOB, idempotency_key=command_id)
    assert (again.status_code, again.json()) == (201, first.json())
    other = doors.ada.post("/api/v1/jobs", with_value("spec.name", "x"), idempotency_key=command_id)
    assert other.status_code == 409
    assert "used with other content" in other.json()["detail"]
    assert left(doors, doors.ada) == before
    # The id is one principal's own: for somebody else it is a new one.
    foreign = {**JOB, "project_id": "other.vision"}
    assert doors.eve.post("/api/v1/jobs", foreign, idempotency_key=command_id).status_code == 201


def test_a_stale_expected_version_is_told_and_changes_nothing(doors):
    job_id = doors.ada.post("/api/v1/jobs", JOB).json()["id"]
    path, command_id = f"/api/v1/jobs/{job_id}/cancel", uuid.uuid4().hex
    before = left(doors, doors.ada)
    stale = doors.ada.post(path, {"expected_version": "99"}, idempotency_key=command_id)
    assert (stale.status_code, stale.json()["code"]) == (409, "ABORTED")
    assert "the command expected 99" in stale.json()["detail"]
    assert left(doors, doors.ada) - before == Counter([("command.refused", command_id)])
    # The read model may be a moment behind: who reads again decides anew.
    for _ in range(20):
        version = doors.ada.http.get(f"/api/v1/jobs/{job_id}").json()["version"]
        fresh = doors.ada.post(path, {"expected_version": version})
        if fresh.status_code != 409:
            break
    assert fresh.status_code == 202, fresh.text


def test_a_job_that_fits_nowhere_waits_and_says_why(doors):
    job_id = doors.ada.post("/api/v1/jobs", with_value("spec.resources.cpu_milli", 10**9)).json()[
        "id"
    ]
    deadline = time.monotonic() + 30
    while True:
        why = doors.ada.http.get(f"/api/v1/jobs/{job_id}/why").text
        if json.loads(why)["status"] == "JOB_STATUS_QUEUED" and "no node" in why:
            return
        assert time.monotonic() < deadline, why
        time.sleep(0.1)


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_unknown_and_foreign_jobs_are_answered_alike(doors, verb):
    foreign = doors.eve.post("/api/v1/jobs", {**JOB, "project_id": "other.vision"}).json()["id"]
    answers = []
    for job_id in (NOBODY, foreign):
        told = [doors.ada.post(f"/api/v1/jobs/{job_id}/{verb}", {}, x_correlation_id="one")]
        told += [
            doors.ada.http.get(f"/api/v1/jobs/{job_id}{view}", headers={"x-correlation-id": "one"})
            for view in ("", "/why", "/events")
        ]
        answers.append(
            [(one.status_code, one.content.replace(job_id.encode(), b"ID")) for one in told]
        )
    assert answers[0] == answers[1]
    assert {status for status, _ in answers[0]} == {404}


def test_a_foreign_project_is_answered_like_one_that_does_not_exist(doors):
    answers = []
    for project in ("other.vision", "none.vision"):
        body = with_value("project_id", project)
        answer = doors.ada.post("/api/v1/jobs", body, x_correlation_id="one")
        assert (answer.status_code, answer.json()["field"]) == (404, "project_id")
        answers.append(answer.content.replace(project.encode(), b"ID"))
    assert answers[0] == answers[1]


def test_nothing_of_it_lies_on_the_disk(doors):
    names = {path.name for path in doors.platform.home.path.rglob("*")}
    assert not names & {"passwd", "digits"}


def test_records_written_straight_into_a_topic_are_void_and_services_go_on(doors):
    topic = "loomos.scheduler"
    valid = [one for one in doors.records("scheduler") if one.verdict.kind == Kind.EVENT]
    last = valid[-1]
    stamp = last.verdict.stamp
    forged = stamp._replace(n=stamp.n + 1, i=1, m=1, before=bytes(32))
    marker = stamp._replace(kind=Kind.MARKER, epoch=stamp.epoch + 7, n=0, i=1, m=1)
    rest = list(last.headers[1:])
    wrong_schema = [
        ("ce_type", b"job.submitted"),
        ("ce_dataschema", b"urn:loomos:job.submitted:99"),
    ]
    written = [
        (b"garbage", b"\x00\xff garbage", []),
        (b"local", None, []),
        (b"local", last.value, list(last.headers)),
        (b"local", last.value, [("loom", b"\x01short"), *rest]),
        (b"local", last.value, [("loom", forged.pack()), *rest]),
        (b"local", last.value, [("loom", forged.pack()), *wrong_schema]),
        (b"", b"", [("loom", marker.pack()), *rest]),
        (b"local", b"x" * 900_000, [("loom", b"\x00" * 78)]),
    ]
    offsets = doors.write(topic, written)
    answer = doors.ada.post("/api/v1/jobs", JOB)
    assert answer.status_code == 201, answer.text
    position = answer.headers["x-loomos-position"]
    job_id = answer.json()["id"]
    assert doors.ada.http.get(f"/api/v1/jobs/{job_id}?after={position}").status_code == 200
    voided = {one.offset for one in doors.records("scheduler") if not one.verdict.valid}
    assert set(offsets) <= voided
    said = [json.loads(line) for line in doors.by_name["scheduler"].said().splitlines()]
    assert set(offsets) <= {line["offset"] for line in said if line["event"] == "void"}
    assert all(one.popen.poll() is None for one in doors.by_name.values())
