"""What a policy deleted from the archive leaves data's own tables, and a rebuild gives the same."""

import json

from tests.appending import origin
from tests.integration.test_notary_service import write
from tests.sealed_world import eventually, serving, tell

from loom.kit.rebuild import rebuild
from loom.log.envelope import draft
from loom.v1 import data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.data.main import SERVICE as DATA

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}


def appending(name):
    event = data_pb2.NewEvent(type="test.taken", event_id=name, payload_json='{"n": 1}')
    return data_pb2.AppendEventRequest(organisation_id="acme", event=event)


def deletion(topic, offset):
    event = pb.ArchiveDeleted(
        log_id=f"{topic}-0", organisation_id="platform", topic=topic, offsets=[offset]
    )
    return draft([event], [1], origin("loomdb", "platform"))


async def test_an_id_goes_with_its_content(fresh_log, fresh_database, platform, settings):
    async with serving(DATA, settings("data")) as shell:
        schema = data_pb2.RegisterSchemaRequest(
            organisation_id="acme",
            event_type="test.taken",
            version="1.0.0",
            schema_json=json.dumps(SCHEMA),
        )
        await tell(shell, schema)
        kept = await tell(shell, appending("kept"))
        gone = await tell(shell, appending("gone"))
        place = gone.events[0].position
        await write(platform.administrator, "loomos.loomdb", [deletion(place.topic, place.offset)])

        async def ids():
            async with shell.db() as db:
                rows = await (await db.execute("SELECT event_id FROM event_ids")).fetchall()
            return [row["event_id"] for row in rows]

        async def left():
            return await ids() == ["kept"]

        assert await eventually(left)
        assert (await tell(shell, appending("kept"))).events[0].position == kept.events[0].position
        compared = await rebuild(DATA, shell.settings, shell.store)
        assert [one.table for one in compared if one.live != one.rebuilt] == []
        assert {one.table: one.rows for one in compared}["event_ids"] == 1
