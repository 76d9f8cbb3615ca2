"""Metadata in and out, routes and shards."""

import uuid

import probe
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.decider import Position
from loom.kit.call import Headers, headers, metadata_of, new_command_id
from loom.kit.client import Breaker
from loom.kit.errors import Failure
from loom.kit.routes import route_of, route_to, routes_of, shard_in

CONTRACT = probe.contract()


def test_headers_survive_the_way() -> None:
    sent = Headers(
        command_id="c",
        issued_at_us=5,
        correlation_id="s",
        causation_id="e",
        traceparent="t",
        bearer="b",
        after=(Position("loomos.x", 1, 2, 3),),
    )
    assert headers(metadata_of(sent)) == sent
    assert metadata_of(Headers()) == ()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["command-id", "after-bin", "authorization", "issued-at-us", "other"]),
            st.text(max_size=20) | st.binary(max_size=20),
        ),
        max_size=4,
    )
)
def test_any_metadata_is_read_or_refused(pairs: list[tuple[str, str | bytes]]) -> None:
    try:
        headers(pairs)
    except Failure as failure:
        assert failure.code in ("INVALID_ARGUMENT", "UNAUTHENTICATED")


def test_command_ids_are_sorted_by_time() -> None:
    ids = [new_command_id() for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(uuid.UUID(one).version == 7 for one in ids)
    assert all(uuid.UUID(one).variant == uuid.RFC_4122 for one in ids)


def test_a_contract_is_a_table_of_routes() -> None:
    by_name = {route.method: route for route in routes_of(CONTRACT)}
    create = by_name["CreateProbe"]
    assert (create.service, create.path) == ("probe", "/loom.probe.v1.Probes/CreateProbe")
    assert (create.query, create.unary, create.http_status) == (False, True, 201)
    assert by_name["GetProbe"].query
    assert by_name["TalkToProbe"].streams_in
    assert by_name["GreetProbe"].anonymous
    assert route_of(CONTRACT.CreateProbeRequest.DESCRIPTOR) is create
    assert route_to("/loom.probe.v1.Probes/CreateProbe") is create
    for unknown in ("/loom.probe.v1.Probes/Nothing", "/nowhere/Nothing", ""):
        with pytest.raises(LookupError):
            route_to(unknown)
    with pytest.raises(LookupError):
        route_of(CONTRACT.Probe.DESCRIPTOR)


def test_a_request_names_its_shard() -> None:
    create = CONTRACT.CreateProbeRequest(project_id="acme.vision")
    assert shard_in(create, route_of(create.DESCRIPTOR)) == "acme.vision"
    end = CONTRACT.EndProbeRequest(probe_id="probe-acme.vision-abcdefghijklmnopqrst")
    assert shard_in(end, route_of(end.DESCRIPTOR)) == "acme.vision"


def test_an_address_rests_after_failures_in_a_row_and_longer_each_time() -> None:
    breaker = Breaker()
    for _ in range(4):
        breaker.failed(0.0)
    assert breaker.rest(0.0) == 0
    breaker.failed(0.0)
    first = breaker.rest(0.0)
    for _ in range(6):
        breaker.failed(0.0)
    assert 0 < first < breaker.rest(0.0) <= 8
    breaker.answered()
    assert breaker.rest(0.0) == 0
