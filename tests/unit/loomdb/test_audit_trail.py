"""Reads of the audit trail: what they leave, what the index keeps, how stories are told."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.decider import Code, Context, Position, Recorded, Rejected, Resource, fold
from loom.v1 import common_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.decide import decide, resource
from loomos.loomdb.evolve import evolve
from loomos.loomdb.project.events import owner_of, project
from loomos.loomdb.query import cursor_of, place_of
from loomos.loomdb.query.story import arrange
from loomos.loomdb.state import initial

CONTEXT = Context("c-1", 1_700_000_000_000_000, "user:usr-acme-a", "acme")


def test_a_read_leaves_a_record_of_what_was_asked():
    request = pb.ListEventsRequest(organisation_id="acme", type_prefix="job.", limit=10)
    (event,) = decide(request, initial("acme"), CONTEXT)
    assert event.organisation_id == "acme"
    assert event.method == "ListEvents"
    assert json.loads(event.query) == {
        "organisation_id": "acme",
        "type_prefix": "job.",
        "limit": 10,
    }
    assert fold(evolve, initial("acme"), [event, event]).reads == 2


@pytest.mark.parametrize(
    "request_class",
    [pb.GetEventRequest, pb.GetStoryRequest, pb.GetProofRequest, pb.GetCheckpointRequest],
)
def test_every_read_is_of_one_organisation(request_class):
    request = request_class(organisation_id="acme")
    assert resource(request, initial("acme")) == Resource("organisation", "acme")
    assert decide(request, initial("acme"), CONTEXT)[0].organisation_id == "acme"
    whole = request_class(organisation_id="platform")
    assert resource(whole, initial("platform")) == Resource("platform", "platform")
    assert resource(request_class(), initial("")) is None


def test_an_empty_time_range_is_refused():
    request = pb.ListEventsRequest(organisation_id="acme", from_us=10, to_us=10)
    with pytest.raises(Rejected) as refused:
        decide(request, initial("acme"), CONTEXT)
    assert (refused.value.code, refused.value.field) == (Code.INVALID_ARGUMENT, "to_us")


def test_an_unknown_command_is_refused():
    with pytest.raises(Rejected, match="loomdb does not know"):
        decide(common_pb2.Receipt(), initial("acme"), CONTEXT)


def recorded(event, topic="loomos.loomdb", shard="acme"):
    return Recorded(
        event=event,
        type="audit.trail.read",
        id="abc.1",
        stream="acme",
        version=3,
        shard=shard,
        position=Position(topic, 0, 7),
        at_us=5,
        actor="user:usr-acme-a",
        command_id="c-1",
        correlation_id="c-1",
        causation_id="",
    )


def test_the_index_keeps_what_the_event_says():
    event = pb.AuditTrailRead(organisation_id="acme", method="GetStory", query='{"a":"\\u0000"}')
    (statement,) = project(recorded(event))
    assert json.loads(statement.parameters[15])["method"] == "GetStory"
    assert statement.parameters[:4] == ("loomos.loomdb", 0, 7, 0)
    assert statement.sql.count("%s") == len(statement.parameters)


def test_an_event_belongs_to_whom_it_names_or_whose_shard_decided_it():
    empty = pb.CheckpointSigned(tree_id="x")
    assert owner_of(recorded(empty, "loomos.security", "acme")) == ("acme", "")
    assert owner_of(recorded(empty, "loomos.checkpoint", "acme.vision")) == ("acme", "acme.vision")
    assert owner_of(recorded(empty, "loomos.resource-manager", "local")) == ("", "")
    named = pb.AuditEvent(project_id="acme.vision")
    assert owner_of(recorded(named, "loomos.scheduler", "local")) == ("acme", "acme.vision")
    nested = pb.StoryEntry(event=named)
    assert owner_of(recorded(nested, "loomos.scheduler", "local")) == ("acme", "acme.vision")


def event(event_id, cause=""):
    return pb.AuditEvent(event_id=event_id, causation_id=cause)


def test_a_story_puts_effects_behind_their_causes():
    told = arrange([event("a"), event("b", "a"), event("c"), event("d", "b"), event("e", "a")])
    assert [(entry.depth, entry.event.event_id) for entry in told] == [
        (0, "a"),
        (1, "b"),
        (2, "d"),
        (1, "e"),
        (0, "c"),
    ]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("abcdefghx")), max_size=8))
def test_every_event_is_told_once_whatever_its_causes(pairs):
    events = [event(name, cause) for name, cause in dict(pairs).items()]
    told = arrange(events)
    assert sorted(entry.event.event_id for entry in told) == sorted(e.event_id for e in events)
    for before, entry in itertools.pairwise(told):
        assert entry.depth <= before.depth + 1
    assert not told or told[0].depth == 0


def test_a_cursor_leads_back_to_its_place():
    row = {"at_us": 5, "topic": "loomos.resource-manager", "partition": 2, "record_offset": 9}
    place = {"at": 5, "topic": "loomos.resource-manager", "partition": 2, "offset": 9}
    assert place_of(cursor_of(row)) == place
    for hostile in ("", "1:2:3", "a:b:c:d", "1:t:-1:2", f"{2**70}:t:1:2"):
        with pytest.raises(Rejected) as refused:
            place_of(hostile)
        assert refused.value.field == "cursor"


def test_what_the_shell_writes_for_a_whole_partition_is_no_tenants():
    event = common_pb2.CommandAcknowledged(shard_id="partition:3", command_type="heartbeat")
    record = Recorded(
        event=event,
        type="command.acknowledged",
        id="e-1",
        stream="partition:3",
        version=1,
        shard="partition:3",
        position=Position("loomos.security", 3, 7, 0),
        at_us=5,
        actor="service:security",
        command_id="c-1",
        correlation_id="c-1",
        causation_id="c-1",
    )
    assert owner_of(record) == ("", "")
