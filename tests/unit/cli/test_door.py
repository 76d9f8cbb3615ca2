"""The door: whose key it uses, what it remembers, and how it words a refusal."""

import os

import httpx
import pytest

from loomos.client import gateway as door
from loomos.client.gateway import Door
from loomos.client.profile import REMEMBERED_S, Profile, Refused, only

KEY = "lk_key-acme-aaaaaaaaaaaaaaaaaaaa_" + "s" * 43


@pytest.fixture
def home(tmp_path):
    (tmp_path / "profiles").mkdir()
    return tmp_path


def environ(home, **more):
    return {"LOOMOS_HOME": str(home)} | more


def test_a_profile_is_its_owners_alone(home):
    profile = Profile.named(home, "ada")
    profile.save(KEY)
    assert profile.path.stat().st_mode & 0o777 == 0o600
    assert profile.key() == KEY
    profile.path.chmod(0o644)
    with pytest.raises(Refused, match="chmod 600"):
        profile.key()


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden", "x" * 200])
def test_a_profiles_name_is_no_path(home, name):
    with pytest.raises(Refused, match="profile is"):
        Profile.named(home, name)


def test_who_has_several_profiles_must_choose(home):
    with pytest.raises(Refused, match="not logged in"):
        only(home)
    Profile.named(home, "ada").save(KEY)
    assert only(home).name == "ada"
    Profile.named(home, "root").save(KEY)
    with pytest.raises(Refused, match="ada, root"):
        only(home)


def test_without_a_gateway_it_says_how_to_get_one(home):
    with pytest.raises(Refused, match="loomos up"):
        door.located(home, {})
    with pytest.raises(Refused, match="want https"):
        door.located(home, {"LOOMOS_GATEWAY": "http://x", "LOOMOS_CA": "/ca"})


def test_positions_are_remembered_for_a_while(home):
    profile = Profile.named(home, "ada")
    profile.remember({"loomos.scheduler:0": "7:0"})
    assert profile.positions() == {"loomos.scheduler:0": "7:0"}
    path = profile.path.with_suffix(".positions")
    past = path.stat().st_mtime - REMEMBERED_S - 1
    os.utime(path, (past, past))
    assert profile.positions() == {}
    path.write_text("no json")
    assert profile.positions() == {}


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/api/v1/jobs", "scheduler"),
        ("/api/v1/jobs/job-local-x/why", "scheduler"),
        ("/api/v1/jobs/job-local-x/logs", "resource-manager"),
        ("/api/v1/marketplace/jobs/job-local-x/cost", "marketplace"),
        ("/api/v1/whoami", "security"),
        ("/api/v1/nowhere/at/all", ""),
    ],
)
def test_a_path_names_the_service_whose_position_matters(path, service):
    assert door.service_at(path) == service


def told(status, content):
    request = httpx.Request("GET", "https://gateway/api/v1/jobs")
    return httpx.Response(status, json=content, request=request)


def test_a_refusal_names_each_broken_field():
    refused = door.refused_in(
        told(
            400,
            {
                "status": 400,
                "code": "INVALID_ARGUMENT",
                "detail": "two things are wrong",
                "fields": [
                    {"field": "spec.name", "description": "is empty", "rule": ""},
                    {"field": "spec.command", "description": "is missing", "rule": ""},
                ],
                "correlation_id": "c-1",
            },
        )
    )
    assert str(refused) == "spec.name: is empty; spec.command: is missing"
    assert (refused.status, refused.code) == (400, "INVALID_ARGUMENT")
    assert refused.correlation_id == "c-1"


def test_what_is_no_problem_document_is_told_too():
    assert "502 without a reason" in str(door.refused_in(told(502, ["?"])))


class Scripted(Door):
    """A door whose attempts end as a script says."""

    def __init__(self, script):
        self.script = list(script)
        self.sent = []
        self.as_of = ""
        self.written = {}
        self.profile = None

    def send(self, method, path, body, params, headers):
        self.sent.append((method, path, dict(headers)))
        answer = self.script.pop(0)
        if isinstance(answer, Refused):
            raise answer
        return answer


def test_an_unknown_outcome_is_asked_for_again_under_the_same_id(monkeypatch):
    monkeypatch.setattr(door.time, "sleep", lambda _: None)
    unknown = Refused(503, "UNAVAILABLE", "outcome unknown")
    scripted = Scripted([unknown, unknown, told(201, {"id": "job-local-x"})])
    assert scripted.call("POST", "/api/v1/jobs", {})["id"] == "job-local-x"
    assert len({headers["Idempotency-Key"] for _, _, headers in scripted.sent}) == 1
    assert len(scripted.sent) == 3


def test_a_refusal_behind_a_good_status_is_one(monkeypatch):
    monkeypatch.setattr(door.time, "sleep", lambda _: None)
    late = {"error": {"status": 503, "code": "UNAVAILABLE", "detail": "retry"}}
    scripted = Scripted([told(200, late), told(200, {"settled": 1})])
    assert scripted.call("POST", "/api/v1/settle", {}) == {"settled": 1}
    denied = {"error": {"status": 403, "code": "PERMISSION_DENIED", "detail": "no"}}
    with pytest.raises(Refused, match="no"):
        Scripted([told(200, denied)]).call("POST", "/api/v1/settle", {})


def test_a_verdict_is_not_asked_for_again():
    scripted = Scripted([Refused(403, "PERMISSION_DENIED", "no")])
    with pytest.raises(Refused, match="no"):
        scripted.call("POST", "/api/v1/jobs", {})
    assert len(scripted.sent) == 1


def test_a_query_waits_for_what_was_written_to_the_same_service():
    answer = told(201, {"id": "job-local-x"})
    answer.headers["x-loomos-position"] = "loomos.scheduler:0:41:0"
    scripted = Scripted([answer, told(200, {}), told(200, {})])
    scripted.call("POST", "/api/v1/jobs", {})
    scripted.call("GET", "/api/v1/jobs")
    scripted.call("GET", "/api/v1/whoami")
    assert scripted.sent[1][2] == {"X-Loomos-After": "loomos.scheduler:0:41:0"}
    assert scripted.sent[2][2] == {}


class Broken(Door):
    """A door whose streams come as a script says: messages, and how each line ends."""

    def __init__(self, *script):
        self.script = list(script)
        self.asked = []

    def lines(self, path, params=None):
        self.asked.append(params)
        messages, end = self.script.pop(0)
        yield from messages
        if end is not None:
            raise end


def test_a_stream_goes_on_behind_its_last_cursor_over_broken_lines(monkeypatch):
    monkeypatch.setattr(door.time, "sleep", lambda _: None)
    away = Refused(0, "UNAVAILABLE", "the line broke")
    first = [{"n": 1, "cursor": "a"}, {"n": 2, "cursor": ""}]
    broken = Broken((first, away), ([], away), ([{"n": 3}], None), ([{"n": 4}], None))
    found = broken.stream("/event-stream", {"from_us": 7, "types": ["job."]})
    assert [next(found)["n"] for _ in range(4)] == [1, 2, 3, 4]
    behind = {"types": ["job."], "cursor": "a"}
    assert broken.asked == [{"from_us": 7, "types": ["job."]}, behind, behind, behind]


def test_a_stream_that_is_refused_or_never_comes_back_ends(monkeypatch):
    monkeypatch.setattr(door.time, "sleep", lambda _: None)
    refused = Refused(403, "PERMISSION_DENIED", "no")
    with pytest.raises(Refused, match="no"):
        list(Broken(([{"n": 1}], refused)).stream("/event-stream"))
    away = Refused(0, "UNAVAILABLE", "it does not answer")
    gone = Broken(*[([], away)] * 9)
    with pytest.raises(Refused, match="does not answer"):
        list(gone.stream("/event-stream"))
    assert len(gone.asked) == len(door.AGAIN_AFTER_S) + 1


def test_a_query_of_loomdb_waits_for_what_was_written_anywhere():
    scripted = Scripted([told(200, {})])
    scripted.written = {"loomos.data:0": "7:0", "loomos.scheduler:1": "9:0"}
    scripted.call("GET", "/api/v1/organisations/acme/audit/events")
    seen = scripted.sent[0][2]["X-Loomos-After"]
    assert seen == "loomos.data:0:7:0,loomos.scheduler:1:9:0"
