"""The copies that an appender may ask for: given, or refused with what the cluster has."""

import pytest
from tests.given import given

import loomos.data
from loom.decider import Code
from loom.v1 import data_pb2 as pb

ONE, THREE, DEGRADED = (1, 1, 1), (3, 3, 2), (3, 2, 2)
LOOSE = (3, 3, 1)


def append(level: str, copies: tuple[int, int, int]) -> pb.AppendEventRequest:
    replicas, in_sync, min_insync = copies
    event = pb.NewEvent(
        event_id="e-1",
        type="job.completed",
        payload_json='{"job_id": "j-1", "status": "succeeded"}',
    )
    return pb.AppendEventRequest(
        organisation_id="acme",
        event=event,
        consistency=f"CONSISTENCY_{level}",
        copies=pb.LogCopies(replicas=replicas, in_sync=in_sync, min_insync=min_insync),
    )


@pytest.mark.parametrize(
    ("level", "copies"),
    [("UNSPECIFIED", ONE), ("ONE", ONE), ("ONE", DEGRADED), ("QUORUM", THREE),
     ("QUORUM", DEGRADED), ("ALL", THREE)],
)  # fmt: skip
def test_what_the_cluster_gives_is_appended(level, copies):
    outcome = given(loomos.data, shard="acme").when(append(level, copies))
    assert [type(one).__name__ for one in outcome.found] == ["EventAppended"]


@pytest.mark.parametrize(
    ("level", "copies", "named"),
    [
        ("QUORUM", ONE, "1 replicas, 1 of them in sync, min.insync.replicas is 1"),
        ("ALL", ONE, "run three brokers"),
        ("QUORUM", LOOSE, "min.insync.replicas is 1"),
        ("ALL", DEGRADED, "3 replicas, 2 of them in sync"),
        ("ALL", (3, 0, 2), "wait until the missing broker is back"),
    ],
)
def test_what_it_cannot_give_is_refused_with_what_was_found(level, copies, named):
    batch = pb.AppendEventsRequest(organisation_id="acme")
    single = append(level, copies)
    batch.events.append(single.event)
    batch.consistency = single.consistency
    batch.copies.CopyFrom(single.copies)
    for command in (single, batch):
        refusal = given(loomos.data, shard="acme").when(command).found
        assert refusal.code == Code.FAILED_PRECONDITION
        assert refusal.field == "consistency"
        assert named in refusal.message
