"""Time travel as a user meets it: real processes, the command line, several services."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.processes import loomos

from loom.v1 import scheduler_pb2
from loomos.cli.door import Door
from loomos.client.profile import Refused

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]
SERVICES = "security,scheduler,loomdb,gateway"
PASSWORD = "correct horse battery staple"


class People:
    """Everybody who works on one platform, each by their profile."""

    def __init__(self, home: Path) -> None:
        self.environ = os.environ | {
            "LOOMOS_HOME": str(home),
            "LOOMOS_SERVICES": SERVICES,
            "LOOMOS_PASSWORD": PASSWORD,
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return loomos(self.environ, *words)

    def says(self, who: str, *words: str) -> list[dict]:
        """What somebody is answered, object by object."""
        done = self.run("--profile", who, *words, "--json")
        assert done.returncode == 0, (words, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def refused(self, who: str, *words: str) -> str:
        done = self.run("--profile", who, *words)
        assert done.returncode == 1, done.stdout
        return done.stderr.partition(" (story")[0]

    def join(self, name: str, organisation: str) -> None:
        self.says("root", "org", "create", organisation)
        self.says("root", "project", "create", f"{organisation}.vision")
        role = f"admin@{organisation}"
        self.says("root", "user", "create", name, "--org", organisation, "--role", role,
                  "--password")  # fmt: skip
        done = self.run("login", "--org", organisation, "--user", name, "--as", name)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    found = People(tmp_path_factory.mktemp("travel") / "home")
    started = found.run("up", "--detach")
    try:
        assert started.returncode == 0, started.stderr
        token = re.search(r"le_[A-Za-z0-9_-]+", started.stdout + started.stderr)
        assert token is not None
        done = found.run("enrol", "--user", "root", "--token", token.group())
        assert done.returncode == 0, done.stderr
        found.join("ann", "acme")
        found.join("eve", "evil")
        yield found
    finally:
        found.run("down")


def submitted(people: People, name: str) -> str:
    words = ("submit", "--project", "acme.vision", "--name", name)
    done = people.run("--profile", "ann", *words, "--json", "--", "sleep", "9")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])["id"]


def test_the_past_by_the_command_line(people):
    one = submitted(people, "one")
    two = submitted(people, "two")
    people.says("ann", "cancel", one)
    facts = people.says("ann", "why", one)[0]["facts"]
    first, last = facts[0]["event_id"], facts[-1]["event_id"]
    assert facts[-1]["event_type"] == "job.finished"

    # Jobs by event: then one was just submitted and two did not exist.
    (then,) = people.says("ann", "jobs", "--as-of", first)
    assert (then["job_id"], then["status"]) == (one, "JOB_STATUS_PENDING")
    now = {job["job_id"]: job["status"] for job in people.says("ann", "jobs", "--as-of", last)}
    assert now[one] == "JOB_STATUS_CANCELLED" and set(now) == {one, two}
    assert people.refused("ann", "job", two, "--as-of", first) == f"refused: job_id: no job '{two}'"

    # The fold of the log and its projection tell the same of each moment.
    for fact in facts:
        event = fact["event_id"]
        rows = {
            job["job_id"]: job["status"] for job in people.says("ann", "jobs", "--as-of", event)
        }
        folded = people.says("ann", "replay", "--to", event, "--service", "scheduler")
        jobs = {name: job for shard in folded for name, job in shard["state"]["jobs"].items()}
        states = {name: status_of(job["status"]) for name, job in jobs.items()}
        # A job that ended is not decided about any more, so the decider has forgotten it.
        for name, status in rows.items():
            assert states.get(name, status) == status
        assert set(states) <= set(rows)
        assert states or event == last
    at = folded[0]["position"]
    there = f"{at['topic']}:{at['partition']}:{at['offset']}"
    assert people.says("ann", "replay", "--to", there, "--service", "scheduler") == folded

    # A position is a moment, and another service's tables follow it.
    (root,) = people.says("ann", "events", "causes", first)
    place = f"loomos.scheduler:0:{root['event']['position']['offset']}"
    assert [job["job_id"] for job in people.says("ann", "jobs", "--as-of", place)] == [one]
    before = people.says("root", "user", "list", "--org", "evil", "--as-of", first)
    assert [one["user_name"] for one in before] == ["eve"]
    created = people.says("root", "audit", "events", "--organisation", "platform",
                          "--type", "user.created", "--limit", "1")  # fmt: skip
    moment = created[0]["event_id"]
    assert people.says("root", "user", "list", "--org", "evil", "--as-of", moment) == []

    # Causes and effects hang together both ways.
    back = people.says("ann", "events", "causes", facts[1]["event_id"])
    assert [entry["event"]["event_id"] for entry in back] == [facts[1]["event_id"], first]
    forth = people.says("ann", "events", "effects", first)
    assert facts[1]["event_id"] in [entry["event"]["event_id"] for entry in forth]
    early = people.says("ann", "events", "effects", first, "--as-of", first)
    assert [entry["event"]["event_id"] for entry in early] == [first]
    assert people.says("ann", "events", "effects", first, "--limit", "1") != forth

    # What changed in between, and only that.
    changes = people.says("ann", "diff", first, last, "jobs", "--service", "scheduler")
    kinds = {json.loads(one["key"])["job_id"]: one["kind"] for one in changes}
    assert kinds == {one: "CHANGE_KIND_CHANGED", two: "CHANGE_KIND_ADDED"}
    assert people.says("ann", "diff", last, last, "--service", "scheduler") == []
    hidden = people.says("root", "diff", "0", "now", "--service", "security")
    assert {"users", "role_grants"} <= {one["table"] for one in hidden}
    assert "passwords" not in {one["table"] for one in hidden}

    # Strangers learn nothing: not by a moment, not by a walk, not by a comparison.
    unknown = f"{'0' * 32}.1"
    for words in (("jobs", "--as-of"), ("events", "causes"), ("events", "effects")):
        foreign = people.refused("eve", *words, first)
        assert foreign.replace(first, unknown) == people.refused("eve", *words, unknown)
    assert people.says("eve", "diff", "0", "now", "--service", "scheduler") == []

    # Reading the trail as of a moment stands in the trail, with the moment.
    people.says("ann", "audit", "events", "--as-of", last, "--type", "job.")
    reads = people.says("ann", "audit", "events", "--type", "audit.trail.read", "--limit", "1000")
    queries = [json.loads(one["payload"]["query"]) for one in reads]
    assert {
        "organisation_id": "acme",
        "type_prefix": "job.",
        "limit": 100,
        "as_of": last,
    } in queries
    assert any(query.get("from_moment") == first for query in queries)

    assert "answers of now only" in timeless(people)


def status_of(name: str) -> str:
    """A status as the replay shows it, in the contract's words."""
    return scheduler_pb2.JobStatus.Name(int(name)) if str(name).isdigit() else f"JOB_STATUS_{name}"


def timeless(people: People) -> str:
    """What is said to who wants to know of access in the past."""
    params = {"action": "GetJob", "resource_kind": "project", "resource_id": "acme.vision"}
    with Door.open("ann", people.environ, as_of="1") as door, pytest.raises(Refused) as refused:
        door.call("GET", "/api/v1/access", params=params)
    return str(refused.value)
