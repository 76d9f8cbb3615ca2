"""What a door refuses before anyone decides."""

from typing import Any

import probe
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.kit.errors import Failure
from loom.kit.validate import check, parse, unknown_fields
from loom.v1 import data_pb2, loomdb_pb2

CONTRACT = probe.contract()
UNKNOWN = b"\xf8\x07\x01"


def request(**fields: Any) -> Any:
    return CONTRACT.CreateProbeRequest(**{"project_id": "acme", "name": "a", **fields})


def test_a_good_request_passes() -> None:
    check(request(note="two\nlines\tand Ünïcode 中文", labels={"a": "b"}, limits={"share": 1e308}))


def test_unknown_fields_are_named_wherever_they_are() -> None:
    limits = CONTRACT.Limits.FromString(UNKNOWN)
    assert unknown_fields(request(limits=limits)) == ["limits.#127"]
    assert unknown_fields(request(limits={"inner": limits})) == ["limits.inner.#127"]
    probes = CONTRACT.ListProbesResponse(probes=[{}, CONTRACT.Probe.FromString(UNKNOWN)])
    assert unknown_fields(probes) == ["probes[1].#127"]


def test_all_broken_rules_are_told_at_once() -> None:
    with pytest.raises(Failure) as refused:
        check(request(name="", mood=9, limits={"memory_bytes": -1}))
    named = {one.field for one in refused.value.violations}
    assert named == {"name", "mood", "limits.memory_bytes"}
    assert "-1" in str(refused.value.violations)


def test_a_field_of_another_wire_type_is_unknown() -> None:
    with pytest.raises(Failure, match="#1"):
        parse(CONTRACT.CreateProbeRequest, b"\x08\x05")


@pytest.mark.parametrize("text", ["\x00", "a\x1b[0m", "\x7f", "\u2028", "\x85"])
def test_control_characters_are_refused(text: str) -> None:
    with pytest.raises(Failure) as refused:
        check(request(note=text))
    assert refused.value.field == "note"
    assert text not in refused.value.message


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        parse(CONTRACT.CreateProbeRequest, data)
    except Failure as failure:
        assert failure.code == "INVALID_ARGUMENT"


def test_json_within_a_request_is_named_as_its_sender_wrote_it() -> None:
    event = data_pb2.NewEvent(type="lab.done")
    event.payload.update({"steps": [{"name": "a\0b"}]})
    with pytest.raises(Failure) as refused:
        check(data_pb2.AppendEventRequest(organisation_id="acme", event=event))
    assert refused.value.field == "event.payload.steps[0].name"


def test_what_must_be_said_and_is_not_is_missing() -> None:
    with pytest.raises(Failure, match=r"^direction: is missing: say which$"):
        check(loomdb_pb2.WalkCausesRequest(organisation_id="acme", event_id="x"))
