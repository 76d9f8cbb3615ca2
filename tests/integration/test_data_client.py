"""The Python client against the real doors: what it appends stands in the log, once."""

import asyncio
import itertools
import json

import pytest
from tests.doors import Doors

from loomos import Client, Event, Refused
from loomos.cli.session import new_secret

STEP = "model.training.checkpoint"


@pytest.fixture(scope="module")
def doors(module_platform):
    found = Doors(module_platform)
    try:
        found.up()
        for name in ("data", "loomdb"):
            found.by_name[name] = found.processes.add(name)
        for name in ("data", "loomdb"):
            asyncio.run(found.by_name[name].healthy())
        yield found
    finally:
        found.down()


@pytest.fixture(scope="module")
def client(doors):
    secret, digest = new_secret()
    user = doors.root.principal.removeprefix("user:")
    told = {"user_id": user, "name": "client", "secret_sha256": digest}
    answer = doors.root.post("/api/v1/api-keys", told)
    assert answer.status_code == 201, answer.text
    key = f"lk_{answer.json()['id']}_{secret}"
    ca = doors.by_name["gateway"].settings.ca_certificate
    with Client(f"https://{doors.address}", key, ca, organisation="acme") as found:
        yield found


def test_an_event_is_appended_once_and_told_where(client):
    first = client.append(STEP, {"epoch": 1, "step": 1}, event_id="c-1", stream="one", tags=["a"])
    again = client.append(STEP, {"step": 1, "epoch": 1}, event_id="c-1", stream="one", tags=["a"])
    assert (first.stream, first.version, first.duplicate) == ("one", 1, False)
    assert again.duplicate and again.offset == first.offset
    with pytest.raises(Refused) as refused:
        client.append(STEP, {"epoch": 2, "step": 1}, event_id="c-1")
    assert refused.value.code == "ALREADY_EXISTS"


def test_more_than_a_call_takes_goes_in_several(client):
    events = [Event(STEP, {"epoch": 0, "step": n}, stream="many") for n in range(1200)]
    found = client.append_many(events)
    assert [one.version for one in found] == list(range(1, 1201))
    assert [one.event_id for one in found] == [one.event_id for one in events]
    (last,) = client.search([STEP], descending=True, limit=1)
    assert last["payload"]["event_id"] == events[-1].event_id
    with pytest.raises(Refused) as refused:
        client.append_many(events[:1], expected={"many": 3})
    assert refused.value.code == "ABORTED"


def test_what_is_handed_over_is_appended(client):
    batch = client.submit_batch([Event(STEP, {"epoch": 0, "step": n}) for n in range(1000)])
    assert batch.events == 1000
    while not (found := client.get_batch(batch.batch_id)).finished:
        pass
    assert (found.events_processed, found.duplicates, found.refused) == (1000, 0, ())


def test_a_schema_of_ones_own(client):
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    client.register_schema("lab.run.ended", "1.0.0", schema)
    assert client.get_schema("lab.run.ended").schema == schema
    with pytest.raises(Refused) as refused:
        client.append("lab.run.ended", {"n": "three"})
    assert refused.value.field == "event.payload.n"
    client.append("lab.run.ended", {"n": 2**62 + 1})
    client.deprecate_schema("lab.run.ended", "1.0.0", "no more runs")
    listed = {one.event_type: one.deprecated for one in client.list_schemas("lab.")}
    assert listed == {"lab.run.ended": True}
    with pytest.raises(Refused) as refused:
        client.append("lab.run.ended", {"n": 1})
    assert refused.value.code == "FAILED_PRECONDITION"


def test_it_is_read_back_under_the_users_type(client):
    client.append("job.completed", {"job_id": "j-7", "status": "ok"}, stream="j-7")
    (one,) = itertools.islice(client.subscribe("job.completed", from_beginning=True), 1)
    told = one.event["payload"]
    assert json.loads(json.dumps(told["payload"])) == {"job_id": "j-7", "status": "ok"}
    assert one.event["organisation_id"] == "acme" and one.cursor
    (found,) = client.query("job.completed")
    assert found["event_id"] == one.event["event_id"]


def test_what_was_appended_is_searched_counted_walked_and_reported(client):
    begun, ended = "model.training.start", "model.training.complete"
    told = {"model_name": "bert", "dataset_id": "corpus", "hardware_config": {"gpu_count": 8}}
    client.append(begun, told, event_id="S-1", stream="run", tags=["healthcare"], consistency="one")
    done = {"model_name": "bert", "cost_dollars": 45.6}
    client.append(ended, done, event_id="E-1", stream="run", causation_id="S-1")
    where = ["tags contains healthcare", "data.hardware_config.gpu_count >= 4"]
    (found,) = client.search(["model.training."], where=where, limit=1)
    assert found == client.get_event("S-1")
    newest = client.search([begun, ended], order_by="timestamp", descending=True)
    assert [one["payload"]["event_id"] for one in newest] == ["E-1", "S-1"]
    assert [one["type"] for one in client.causes("E-1")] == [ended, begun]
    assert [one["type"] for one in client.effects("S-1")] == [begun, ended]
    (group,) = client.analyze([ended], group_by=["data.model_name"], cost="data.cost_dollars")[
        "groups"
    ]
    assert (group["keys"], group["cost_decimal"]) == (["bert"], "45.6")
    rows = client.sql("SELECT data FROM events WHERE type = 'model.training.start'")
    assert rows == [{"data": told}]
    # A report stands on what is signed, which is the log of a second ago.
    while (lineage := client.report("lineage", thing_id="corpus")).rows < 2:
        pass
    again = client.report("lineage", thing_id="corpus", cut=lineage.cut)
    assert (again.content, again.parts) == (lineage.content, 1)
    sections = json.loads(again.content)["sections"]
    assert {row["type"] for part in sections for row in part["rows"]} == {begun, ended}
    with pytest.raises(Refused, match="run three brokers") as refused:
        client.append(begun, told, consistency="quorum")
    assert refused.value.field == "consistency"
