"""Who sees what is sealed, at each door by which an event leaves LoomDB: the table of ADR 16."""

import contextlib
from typing import Any

from google.protobuf import json_format
from test_delivery_breaks import given, two_services
from tests.sealed_world import Judge, eventually, raw_log, tell

from loom.kit.authorize import Caller
from loom.kit.sealing import ERASED, HIDDEN
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import feed, stream
from loomos.loomdb.entry import Entry
from loomos.loomdb.query.subscription import kept
from loomos.loomdb.stream import consume

TYPE, ADA, SEALED = "part.made", "ada.lovelace@example.org", "sealed:1:"
MARKED = (
    "list", "get", "search", "story", "causes", "subscribe", "consume", "report",
)  # fmt: skip
CIPHERTEXT = ("feed", "raised feed", "sql", "analysis", "export")


def reader(personal: bool) -> Caller:
    """Somebody who reads the trail, and may or may not read what is personal."""
    return Caller("user:usr-acme-y", "acme", "user", Judge("acme", personal))


class Doors:
    """All doors, each asked for the same event."""

    def __init__(self, shell: Any, subscription_id: str, bus: Any) -> None:
        self.shell, self.subscription_id, self.bus = shell, subscription_id, bus
        self.event_id = ""

    async def asked(self, request: Any, personal: bool) -> str:
        return str(json_format.MessageToDict(await tell(self.shell, request, personal)))

    async def known(self) -> list[dict[str, Any]]:
        """The event's row of the index, once it is there."""

        async def rows():
            async with self.shell.db() as db:
                found = await db.execute("SELECT * FROM audit_events WHERE type = %s", (TYPE,))
                return await found.fetchall()

        return await eventually(rows)

    async def seen(self, door: str, personal: bool) -> str:
        """What one door shows."""
        own, event_id = {"organisation_id": "acme"}, self.event_id
        match door:
            case "list":
                return await self.asked(pb.ListEventsRequest(type_prefix=TYPE, **own), personal)
            case "get":
                return await self.asked(pb.GetEventRequest(event_id=event_id, **own), personal)
            case "search":
                return await self.asked(pb.SearchEventsRequest(types=[TYPE], **own), personal)
            case "story":
                request = pb.GetStoryRequest(correlation_id="tale", **own)
                return await self.asked(request, personal)
            case "causes":
                way = pb.CAUSAL_DIRECTION_CAUSES
                request = pb.WalkCausesRequest(event_id=event_id, direction=way, **own)
                return await self.asked(request, personal)
            case "report":
                request = pb.ReportSubjectRequest(subject_id="ada", **own)
                return (await tell(self.shell, request, personal)).content.decode()
            case "analysis":
                request = pb.AnalyzeEventsRequest(types=[TYPE], group_by=["payload.mail"], **own)
                return await self.asked(request, personal)
            case "sql":
                text = f"SELECT payload FROM events WHERE type = '{TYPE}'"
                return await self.asked(pb.RunAuditSqlRequest(sql=text, **own), personal)
            case "export":
                return (await raw_log(self.bus)).decode(errors="replace")
            case "feed" | "raised feed":
                entries = [Entry.of_row(row) for row in await self.known()]
                records = await feed.records_of(entries, door != "feed", self.shell)
                return str([record.value for record in records])
            case _:
                return await self.streamed(door, personal)

    async def streamed(self, door: str, personal: bool) -> str:
        """What a stream shows."""
        flows: Any
        if door == "consume":
            request = pb.ConsumeSubscriptionRequest(
                organisation_id="acme", subscription_id=self.subscription_id
            )
            flows = consume.consume_subscription(request, reader(personal), self.shell)
            async with contextlib.aclosing(flows):
                return str(await given(flows))
        start = pb.STREAM_START_BEGINNING
        request = pb.SubscribeRequest(
            organisation_id="acme", types=[TYPE], start=start, until_live=True
        )
        flows = stream.subscribe(request, reader(personal), self.shell)
        async with contextlib.aclosing(flows):
            return str([flow async for flow in flows])


async def test_each_door_shows_what_is_sealed_to_who_may_and_to_nobody_after_the_erasure(
    fresh_log, fresh_database, settings, platform
):
    async with two_services(settings) as (data, loomdb):
        made = await tell(
            loomdb,
            pb.CreateSubscriptionRequest(
                organisation_id="acme",
                name="parts",
                selection=pb.EventSelection(types=[TYPE]),
                start=pb.EventStart(start=pb.STREAM_START_BEGINNING),
                deliveries_max=20,
            ),
        )
        event = data_pb2.NewEvent(
            type=TYPE,
            data_subject="ada",
            correlation_id="tale",
            payload_json=f'{{"mail": "{ADA}"}}',
            personal_paths=["/mail"],
        )
        await tell(data, data_pb2.AppendEventRequest(organisation_id="acme", event=event))

        async def standing():
            async with loomdb.db() as db:
                return await kept("acme", made.id, db)

        await eventually(standing)
        doors = Doors(loomdb, made.id, platform.administrator)
        doors.event_id = (await doors.known())[0]["event_id"]

        async def reported():
            return ADA in await doors.seen("report", True)

        await eventually(reported)
        for door in MARKED:
            may, other = await doors.seen(door, True), await doors.seen(door, False)
            assert ADA in may and SEALED not in may, door
            assert HIDDEN in other and ADA not in other and SEALED not in other, door
        for door in CIPHERTEXT:
            for personal in (True, False):
                shown = await doors.seen(door, personal)
                assert SEALED in shown and ADA not in shown, door
        loomdb.sealing.keyring.destroy("acme", "ada", "event-1")
        for door in MARKED:
            shown = await doors.seen(door, True)
            assert ERASED in shown and ADA not in shown and SEALED not in shown, door
        for door in CIPHERTEXT:
            shown = await doors.seen(door, True)
            assert SEALED in shown and ADA not in shown, door
