"""HTTP to messages: what is understood, and that everything else is refused by name."""

import json
from typing import Any

import probe
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.kit.errors import Failure
from loomos.gateway.transcode import Binding, bindings, parsed_json, request_of, to_json

CONTRACT = probe.contract()
BINDINGS = bindings([CONTRACT.DESCRIPTOR])


def binding(verb: str, template: str) -> Binding:
    (found,) = [one for one in BINDINGS if (one.verb, one.template) == (verb, template)]
    return found


CREATE = binding("POST", "/api/v1/probes")
LIST = binding("GET", "/api/v1/probes")


def created(content: Any) -> Any:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return request_of(CREATE, {}, [], data)


def listed(*query: tuple[str, str]) -> Any:
    return request_of(LIST, {}, query, b"")


def test_literal_paths_come_before_variables_and_internal_rpcs_have_none() -> None:
    templates = [one.template for one in BINDINGS]
    assert templates.index("/api/v1/probes/{probe_id}:end") < templates.index(
        "/api/v1/probes/{probe_id}"
    )
    assert "/api/v1/probes:sweep" not in templates


def test_a_body_fills_the_request() -> None:
    request = created(
        {
            "project_id": "acme.vision",
            "name": "first",
            "limits": {"memory_bytes": "12", "inner": {"share": 0.5}},
            "labels": {"team": "a"},
            "mood": "MOOD_CALM",
            "numbers": [1, 2],
            "begin": "2026-11-22T10:00:00Z",
        }
    )
    assert request.limits.memory_bytes == 12
    assert request.limits.inner.share == 0.5
    assert dict(request.labels) == {"team": "a"}
    assert (request.mood, list(request.numbers)) == (1, [1, 2])
    assert to_json(request)["begin"] == "2026-11-22T10:00:00Z"


def test_a_path_and_a_body_field_fill_the_request() -> None:
    put = binding("PUT", "/api/v1/projects/{project_id}/probes/{name}")
    request: Any = request_of(
        put, {"project_id": "acme", "name": "x"}, [("note", "hi")], b'{"memory_bytes": 3}'
    )
    assert (request.project_id, request.name, request.note) == ("acme", "x", "hi")
    assert request.limits.memory_bytes == 3


def test_a_query_fills_nested_repeated_and_named_fields() -> None:
    request = listed(
        ("project_id", "acme"),
        ("moods", "MOOD_CALM"),
        ("moods", "2"),
        ("limits.memory_bytes", "5"),
        ("limits.inner.share", "0.25"),
        ("calm", "true"),
        ("labels.team", "a"),
        ("since", "2026-01-01T00:00:00Z"),
    )
    assert list(request.moods) == [1, 2]
    assert (request.limits.memory_bytes, request.limits.inner.share) == (5, 0.25)
    assert request.calm
    assert dict(request.labels) == {"team": "a"}
    assert request.since.seconds == 1767225600


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (("colour", "red"), "colour"),
        (("limits.colour", "red"), "limits.colour"),
        (("limits", "5"), "limits"),
        (("calm", "yes"), "calm"),
        (("moods", "MOOD_HAPPY"), "moods"),
        (("limits.memory_bytes", "9223372036854775808"), "limits.memory_bytes"),
        (("limits.memory_bytes", "1e308"), "limits.memory_bytes"),
        (("limits.memory_bytes", "many"), "limits.memory_bytes"),
        (("labels", "a"), "labels"),
        (("project_id.x", "a"), "project_id.x"),
        (("since", "yesterday"), "since"),
    ],
)
def test_a_bad_query_is_refused_by_name(query: tuple[str, str], field: str) -> None:
    with pytest.raises(Failure) as refused:
        listed(query)
    assert (refused.value.code, refused.value.field) == ("INVALID_ARGUMENT", field)


def test_a_query_field_stands_once() -> None:
    with pytest.raises(Failure) as refused:
        listed(("project_id", "a"), ("project_id", "b"))
    assert refused.value.field == "project_id"


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ({"colour": 1}, "colour"),
        ({"limits": {"colour": 1}}, "limits.colour"),
        ({"limits": {"inner": {"colour": 1}}}, "limits.inner.colour"),
        ({"name": 5}, "name"),
        ({"name": None, "limits": 5}, "limits"),
        ({"limits": {"memory_bytes": 2**63}}, "limits.memory_bytes"),
        ({"limits": {"memory_bytes": 1.5}}, "limits.memory_bytes"),
        ({"limits": {"memory_bytes": 1e308}}, "limits.memory_bytes"),
        ({"limits": {"memory_bytes": True}}, "limits.memory_bytes"),
        ({"limits": {"memoryBytes": "x"}}, "limits.memory_bytes"),
        ({"mood": "MOOD_HAPPY"}, "mood"),
        ({"numbers": 5}, "numbers"),
        ({"labels": [1]}, "labels"),
        ({"name": "\ud800"}, "name"),
        ([], "body"),
        ("text", "body"),
        (b'{"name": "a", "name": "b"}', "name"),
        (b'{"limits": {"share": NaN}}', "body"),
        (b'{"limits": {"share": -Infinity}}', "body"),
        (b'{"limits": {"share": 1e309}}', "body"),
        (b'{"numbers": [' + b"9" * 5000 + b"]}", "body"),
        (b"[" * 100_000, "body"),
        (b'{"limits":' * 40 + b"{}" + b"}" * 40, "body"),
        (b"\xff\xfe", "body"),
        (b"{", "body"),
    ],
)
def test_a_bad_body_is_refused_by_name(content: Any, field: str) -> None:
    with pytest.raises(Failure) as refused:
        created(content)
    assert (refused.value.code, refused.value.field) == ("INVALID_ARGUMENT", field)


def test_a_name_that_no_enum_has_is_answered_with_those_that_it_has() -> None:
    with pytest.raises(Failure) as refused:
        created({"mood": "MOOD_HAPPY"})
    assert str(refused.value) == "mood: is 'MOOD_HAPPY': want MOOD_CALM, MOOD_WILD, or nothing"
    with pytest.raises(Failure, match=r"out of range: 9223372036854775808$"):
        created({"limits": {"memory_bytes": 2**63}})


def test_url_and_body_may_not_contradict_each_other() -> None:
    end = binding("POST", "/api/v1/probes/{probe_id}:end")
    with pytest.raises(Failure) as refused:
        request_of(end, {"probe_id": "probe-a"}, [], b'{"probe_id": "probe-b"}')
    assert refused.value.field == "probe_id"
    with pytest.raises(Failure):
        request_of(end, {"probe_id": "probe-a"}, [("why", "x")], b"{}")
    with pytest.raises(Failure):
        request_of(LIST, {}, [], b"{}")


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        created(data)
    except Failure as failure:
        assert failure.code == "INVALID_ARGUMENT"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["name", "limits", "labels", "mood", "numbers", "inner", "data", "x"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_a_request_or_refused(value: Any) -> None:
    try:
        created(json.dumps(value).encode())
    except Failure as failure:
        assert failure.code == "INVALID_ARGUMENT"
        assert failure.field


@given(st.dictionaries(st.text(max_size=5), st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_plain_json_is_read_as_it_stands(value: dict[str, int]) -> None:
    assert parsed_json(json.dumps(value).encode()) == value
