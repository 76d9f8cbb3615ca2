"""What only the archive has, as a user meets it: the past, SQL and the log's own check."""

import pytest
from tests.integration.test_travel_platform import people, submitted

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]
__all__ = ["people"]

PLACES = "SELECT archived, topic, partition, record_offset AS at, event_id FROM records"


def test_what_kafka_has_forgotten_is_part_of_every_answer(people):
    one = submitted(people, "one")
    two = submitted(people, "two")
    (first, *_) = people.says("ann", "why", one)[0]["facts"]
    (fact,) = [
        fact
        for fact in people.says("ann", "why", two)[0]["facts"]
        if fact["event_type"] == "job.submitted"
    ]
    run = people.run("--profile", "root", "archive", "run", "--topic", "loomos.scheduler",
                     "--young-too")  # fmt: skip
    assert run.returncode == 0, run.stderr
    (begin,) = [
        archived["next_offset"]
        for archived in people.says("root", "archive", "list", "--topic", "loomos.scheduler")
    ]
    three = submitted(people, "three")

    # A moment that lies in the archive: the tables and the fold are made through it.
    assert [job["job_id"] for job in people.says("ann", "jobs", "--as-of", first["event_id"])] == [
        one
    ]
    then = people.says("ann", "jobs", "--as-of", fact["event_id"])
    assert {job["job_id"] for job in then} == {one, two}
    folded = people.says("ann", "replay", "--to", fact["event_id"], "--service", "scheduler")
    assert set(folded[0]["state"]["jobs"]) == {one, two}
    now = people.says("ann", "jobs")
    assert {job["job_id"] for job in now} == {one, two, three}

    # SQL over archive and index: each record once, none missing.
    rows = people.says("root", "audit", "sql", "--org", "platform", "--cold", "--limit", "5000",
                       PLACES)  # fmt: skip
    cold = [row for row in rows if row["archived"]]
    assert {(row["topic"], row["at"] < int(begin)) for row in cold} == {("loomos.scheduler", True)}
    places = [(row["topic"], row["partition"], row["at"]) for row in rows]
    assert len(set(places)) == len(places)
    own = [row for row in rows if row["topic"] == "loomos.scheduler"]
    index = people.says("root", "audit", "sql", "--org", "platform", "--limit", "5000",
                        "SELECT event_id FROM events WHERE topic = 'loomos.scheduler'")  # fmt: skip
    assert {row["event_id"] for row in index} <= {row["event_id"] for row in own}
    assert {row["event_id"] for row in own} >= {first["event_id"], fact["event_id"]}
    types = "SELECT type, count(*) AS n FROM records WHERE type = 'job.submitted' GROUP BY 1"
    assert people.says("ann", "audit", "sql", "--cold", types) == [
        {"type": "job.submitted", "n": 3}
    ]
    assert people.says("eve", "audit", "sql", "--cold", types) == []
    for stranger in ("SELECT * FROM read_csv('/etc/passwd')", "SELECT 1; SELECT 2"):
        assert "refused" in people.refused("ann", "audit", "sql", "--cold", stranger)

    checked = people.says("root", "audit", "verify")
    assert [one["faults"] for one in checked] == [[]] * len(checked)
