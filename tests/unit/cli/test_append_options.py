"""Whatever the contract lets an event say, `loomos events append` has an option for."""

import contextlib

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from typer.testing import CliRunner

from loom.v1 import data_pb2 as pb
from loomos.cli import events_append
from loomos.cli.events import app

OPTIONS = """--data {} --id j-7 --stream run-7 --version 1.2.0 --correlation c-1 --causation e-1
--tag nightly --tag eu --priority high --retention-days 3650 --subject patient-7 --personal /name
--occurred 2026-11-22T10:00:00Z --user dr.chen --session s-91 --request r-5 --source-ip 2001:db8::7
--user-agent curl/8 --compliance SOC2_TYPE2 --cost-center cc-9 --project acme.vision
--authentication oauth2_jwt --role radiologist --role reader --access-level confidential
--classification phi --geography us_only --expected 3 --consistency quorum --org acme"""
OTHERWISE = {"payload", "organisation_id", "digest"}
"""Said by `payload_json`, by the path, and by the platform itself."""


class Door:
    def __init__(self, asked: list) -> None:
        self.asked = asked

    def call(self, method: str, path: str, body: dict) -> dict:
        self.asked.append((method, path, body))
        place = {"topic": "loomos.data", "partition": 0, "offset": 1}
        one = {"event_id": "j-7", "stream": "run-7", "version": 4, "position": place}
        return {"events": [one | {"duplicate": False}]}


def unsaid(message: Message) -> set[str]:
    """The fields, also of messages inside, that hold nothing."""
    found = set()
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type and not field.is_repeated and message.HasField(field.name):
            found |= unsaid(value)
        elif not value or (field.message_type and not field.is_repeated):
            found.add(field.name)
    return found


def test_every_field_of_an_event_has_an_option(monkeypatch):
    asked: list = []
    opened = contextlib.nullcontext(Door(asked))
    monkeypatch.setattr(events_append.Door, "open", lambda: opened)
    ran = CliRunner().invoke(app, ["append", "job.completed", *OPTIONS.split()])
    assert ran.exit_code == 0, ran.output
    ((method, path, body),) = asked
    assert (method, path) == ("POST", "/api/v1/organisations/acme/events")
    request = ParseDict(body, pb.AppendEventRequest())
    assert unsaid(request.event) == OTHERWISE
    assert request.event.context.source_ip == "2001:db8::7"
    assert request.event.security.authorization_roles == ["radiologist", "reader"]
    assert request.event.occurred_at_us == 1_795_341_600_000_000


def test_a_time_that_is_none_is_refused_by_its_option(monkeypatch):
    monkeypatch.setattr(events_append.Door, "open", lambda: contextlib.nullcontext(Door([])))
    ran = CliRunner().invoke(app, ["append", "a.b", "--data", "{}", "--occurred", "soon"])
    assert "--occurred is 'soon'" in str(ran.exception)
