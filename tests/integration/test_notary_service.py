"""LoomDB's audit side as one process: index, recorded reads, stories and proofs on real stores."""

import pytest
from tests.appending import append, origin, writing
from tests.callers import Judge, call, caller, eventually, tell
from tests.shells import serving

from loom.decider import Rejected
from loom.kit.answers import KEPT_US, Answers
from loom.kit.errors import Failure
from loom.kit.service import Shell
from loom.log import envelope
from loom.log.clock import now_us
from loom.log.note import Verifier
from loom.log.proof import Proof
from loom.v1 import common_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.main import SERVICE
from loomos.loomdb.seal import notarise

pytestmark = [pytest.mark.bus, pytest.mark.db]


@pytest.fixture
async def shell(fresh_log, fresh_database, settings, tmp_path, monkeypatch):
    made = Shell(SERVICE, settings("loomdb"))
    made.authorizer = Judge()
    made.owner = "test"
    async with serving(made, lambda: (notarise(made),)):
        yield made


def command(organisation, story, cause=""):
    events = [
        common_pb2.CommandRefused(shard_id=f"{organisation}", command_type=f"{n}") for n in (1, 2)
    ]
    told = origin("marketplace", organisation, "user:usr-acme-x", story, cause)
    return envelope.draft(events, (1, 2), told)


async def write(bus, topic, commands):
    async with writing(bus, topic) as writer:
        await append(writer, commands)


async def test_the_audit_trail_is_indexed_proved_and_its_reads_are_recorded(shell, platform):
    bus = platform.administrator
    first = command("acme", "story-1")
    second = command("acme", "story-1", cause=first[1].id)
    foreign = command("other", "story-2")
    await write(bus, "loomos.marketplace", [first, second, foreign])
    acme, everybody = caller("acme"), caller()

    async def listed():
        request = pb.ListEventsRequest(organisation_id="acme", type_prefix="command.", limit=3)
        page = await tell(shell, request, acme)
        return page if len(page.events) == 3 else None

    page = await eventually(listed)
    assert [event.type for event in page.events] == ["command.refused"] * 3
    request = pb.ListEventsRequest(
        organisation_id="acme", type_prefix="command.", cursor=page.next_cursor
    )
    rest = await tell(shell, request, acme)
    assert [event.event_id for event in rest.events] == [second[1].id]
    assert rest.next_cursor == ""
    assert rest.events[0].payload["command_type"] == "2"

    story = await tell(
        shell, pb.GetStoryRequest(organisation_id="acme", correlation_id="story-1"), acme
    )
    assert [(entry.depth, entry.event.event_id) for entry in story.entries] == [
        (0, first[0].id),
        (0, first[1].id),
        (1, second[0].id),
        (1, second[1].id),
    ]
    for request in (
        pb.GetStoryRequest(organisation_id="acme", correlation_id="story-2"),
        pb.GetEventRequest(organisation_id="acme", event_id=foreign[0].id),
        pb.GetEventRequest(organisation_id="platform", event_id=foreign[0].id),
    ):
        with pytest.raises(Rejected):
            await tell(shell, request, acme)
    request = pb.GetEventRequest(organisation_id="platform", event_id=foreign[0].id)
    assert (await tell(shell, request, everybody)).organisation_id == "other"

    async def proved():
        request = pb.GetProofRequest(
            organisation_id="platform", topic="loomos.marketplace", partition=0, offset=2
        )
        return await tell(shell, request, everybody)

    found = await eventually(proved)
    proof = Proof(found.leaf, found.index, tuple(found.path), found.checkpoint)
    public_key = (shell.settings.credentials / "notary.pub").read_text()
    leaf, _ = proof.verify(Verifier.parse(public_key))
    assert (leaf.offset, leaf.kind) == (2, 1)

    async def recorded():
        request = pb.ListEventsRequest(
            organisation_id="platform", type_prefix="audit.trail.read", limit=1000
        )
        events = (await tell(shell, request, everybody)).events
        methods = {event.payload["method"] for event in events}
        return methods >= {"ListEvents", "GetStory", "GetEvent", "GetProof"}

    await eventually(recorded)


async def test_a_command_older_than_the_index_is_looked_up_and_never_decided_twice(shell):
    who, issued_at_us = caller(), now_us() - KEPT_US - 1

    async def ask(request, after=(), timeout_s=0.0):
        return await shell.ask("FindCommand", request, call(who, after=after))

    shell.client.ask = ask
    hold = pb.PlaceHoldRequest(
        organisation_id="platform", scope=pb.HoldScope(subject="person-1"), reason="case 7"
    )
    release = pb.ReleaseHoldRequest(organisation_id="platform", hold_id="hold-x", reason="none")
    first = await tell(shell, hold, who, command_id="elder-1", issued_at_us=issued_at_us)
    with pytest.raises(Failure) as refused:
        await tell(shell, release, who, command_id="elder-2", issued_at_us=issued_at_us)
    commander = shell.ownership.commanders[0]
    assert len(commander.desk.answers) >= 2
    # What is decided leaves an answer here; a heartbeat, which the log may get meanwhile, does not.
    commander.desk.answers = Answers()

    assert await tell(shell, hold, who, command_id="elder-1", issued_at_us=issued_at_us) == first
    with pytest.raises(Failure) as again:
        await tell(shell, release, who, command_id="elder-2", issued_at_us=issued_at_us)
    assert str(again.value) == str(refused.value)
    assert again.value.code == refused.value.code
    hold.reason = "another case"
    with pytest.raises(Failure) as other:
        await tell(shell, hold, who, command_id="elder-1", issued_at_us=issued_at_us)
    assert other.value.code == "ALREADY_EXISTS"
    assert len(commander.desk.answers) == 0
