"""Events as readers want them: by the newest version, and opened for who may read them."""

import asyncio
import contextlib
import json

from google.protobuf import json_format
from tests.sealed_world import Judge, eventually, serving, tell

from loom.kit.authorize import Caller
from loom.kit.sealing import ERASED, HIDDEN
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.data.main import SERVICE as DATA
from loomos.loomdb import stream
from loomos.loomdb.main import SERVICE as LOOMDB

TYPE, ADA, GRACE = "person.seen", "ada.lovelace@example.org", "grace.hopper@example.org"
TEXT = {"type": "string", "x-loomos-personal": True}
FIRST = {"type": "object", "properties": {"mail": TEXT, "city": {"type": "string"}}}
SECOND = {"type": "object", "properties": {"email": TEXT, "city": {"type": "string"}}}
THIRD = {
    "type": "object",
    "properties": {
        "contact": {"type": "object", "properties": {"email": TEXT}},
        "city": {"type": "string"},
        "country": {"type": "string"},
    },
}
RENAME = data_pb2.UpcastStep(action=data_pb2.UPCAST_ACTION_RENAME, path="mail", to="email")
MOVE = data_pb2.UpcastStep(action=data_pb2.UPCAST_ACTION_MOVE, path="email", to="contact.email")
DEFAULT = data_pb2.UpcastStep(
    action=data_pb2.UPCAST_ACTION_DEFAULT, path="country", value_json='"GB"'
)


async def register(shell, version, schema, *steps):
    request = data_pb2.RegisterSchemaRequest(
        organisation_id="acme",
        event_type=TYPE,
        version=version,
        schema_json=json.dumps(schema),
        compatibility=data_pb2.COMPATIBILITY_NONE,
        upcast=steps,
    )
    await tell(shell, request)


async def append(shell, subject, version, payload):
    event = data_pb2.NewEvent(
        type=TYPE, stream="s", data_subject=subject, payload_json=json.dumps(payload),
        schema_version=version,
    )  # fmt: skip
    await tell(shell, data_pb2.AppendEventRequest(organisation_id="acme", event=event))


async def listed(shell, count, upcast, personal=True):
    async def ask():
        request = pb.ListEventsRequest(organisation_id="acme", type_prefix=TYPE, upcast=upcast)
        page = await tell(shell, request, personal)
        return page.events if len(page.events) == count else None

    return told(await eventually(ask))


def told(events):
    found = []
    for event in events:
        payload = json_format.MessageToDict(event.payload)
        found.append((payload["schema_version"], event.upcast_version, payload["payload"]))
    return found


async def streamed(shell, upcast, personal):
    caller = Caller("user:usr-acme-y", "acme", "user", Judge("acme", personal))
    request = pb.SubscribeRequest(
        organisation_id="acme", types=[TYPE], start=pb.STREAM_START_BEGINNING, upcast=upcast,
        until_live=True,
    )  # fmt: skip
    events = []
    async with contextlib.aclosing(stream.subscribe(request, caller, shell)) as flows:
        async for flow in flows:
            events += flow.events
    return told(events)


async def reported(shell, cut="", personal=True):
    async def ask():
        request = pb.ReportSubjectRequest(organisation_id="acme", subject_id="ada", cut=cut)
        made = await tell(shell, request, personal)
        return made if made.rows >= 1 else None

    return await eventually(ask)


async def test_readers_get_the_newest_version_and_plain_values_where_they_may(
    fresh_log, fresh_database, settings
):
    async with (
        serving(DATA, settings("data")) as data,
        serving(LOOMDB, settings("loomdb")) as loomdb,
    ):
        tail = asyncio.create_task(stream.tail_of(loomdb).run())
        await register(data, "1.0.0", FIRST)
        await append(data, "ada", "1.0.0", {"mail": ADA, "city": "London"})
        await register(data, "2.0.0", SECOND, RENAME)
        await append(data, "grace", "2.0.0", {"email": GRACE, "city": "York"})
        await register(data, "3.0.0", THIRD, MOVE, DEFAULT)
        stored = [
            ("1.0.0", "", {"mail": ADA, "city": "London"}),
            ("2.0.0", "", {"email": GRACE, "city": "York"}),
        ]
        newest = [
            ("1.0.0", "3.0.0", {"contact": {"email": ADA}, "city": "London", "country": "GB"}),
            ("2.0.0", "3.0.0", {"contact": {"email": GRACE}, "city": "York", "country": "GB"}),
        ]
        hidden = json.loads(json.dumps(newest).replace(ADA, HIDDEN).replace(GRACE, HIDDEN))
        assert await listed(loomdb, 2, upcast=False) == stored

        async def raised():
            found = await listed(loomdb, 2, upcast=True)
            return found if found == newest else None

        assert await eventually(raised)
        assert await streamed(loomdb, upcast=False, personal=True) == stored
        assert await streamed(loomdb, upcast=True, personal=True) == newest
        assert await streamed(loomdb, True, personal=False) == [tuple(one) for one in hidden]

        first = await reported(loomdb)
        assert ADA.encode() in first.content and GRACE.encode() not in first.content
        again = await reported(loomdb, first.cut)
        assert (again.content, again.manifest) == (first.content, first.manifest)
        unseen = await reported(loomdb, first.cut, personal=False)
        assert ADA.encode() not in unseen.content and HIDDEN.encode() in unseen.content
        loomdb.sealing.keyring.destroy("acme", "ada", "event-1")
        gone = await reported(loomdb, first.cut)
        assert ADA.encode() not in gone.content and ERASED.encode() in gone.content
        assert gone.content == (await reported(loomdb, first.cut)).content
        tail.cancel()
        await asyncio.gather(tail, return_exceptions=True)
