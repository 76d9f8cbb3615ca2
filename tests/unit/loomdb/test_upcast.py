"""A user's payload is brought from version to version, each by its own steps."""

import copy

from hypothesis import given
from hypothesis import strategies as st

from loom.v1 import data_pb2
from loomos.loomdb.upcast import Version, brought_up


def step(action, path, to="", value_json=""):
    action = getattr(data_pb2, f"UPCAST_ACTION_{action}")
    return data_pb2.UpcastStep(action=action, path=path, to=to, value_json=value_json)


V1 = Version((1, 0, 0), "1.0.0", ())
V2 = Version((2, 0, 0), "2.0.0", (step("RENAME", "gpus", "gpu_count"),))
V3 = Version(
    (10, 0, 0),
    "10.0.0",
    (
        step("MOVE", "gpu_count", "hardware.gpu_count"),
        step("DEFAULT", "hardware.kind", value_json='"unknown"'),
        step("DROP", "old"),
    ),
)


def test_each_version_is_brought_up_from_where_it_stands():
    newest = {"hardware": {"gpu_count": 8, "kind": "unknown"}}
    for stored, content in (
        ("1.0.0", {"gpus": 8, "old": 1}),
        ("2.0.0", {"gpu_count": 8, "old": 1}),
    ):
        assert brought_up(content, stored, [V1, V2, V3]) == "10.0.0"
        assert content == newest
    assert brought_up(newest, "10.0.0", [V1, V2, V3]) == ""
    assert newest == {"hardware": {"gpu_count": 8, "kind": "unknown"}}


def test_a_newer_version_than_any_known_one_stays():
    content = {"gpus": 8}
    assert brought_up(content, "11.0.0", [V1, V2, V3]) == ""
    assert brought_up(content, "", [V1, V2, V3]) == ""
    assert content == {"gpus": 8}


def test_what_is_sealed_from_the_reader_as_a_whole_stays():
    assert brought_up("[sealed]", "1.0.0", [V1, V2]) == ""


CONTENT = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(
        st.sampled_from(["gpus", "gpu_count", "hardware", "kind", "old"]), inner, max_size=4
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["gpus", "hardware", "old"]), CONTENT))
def test_two_steps_are_the_two_one_by_one(content):
    at_once, one_by_one = copy.deepcopy(content), copy.deepcopy(content)
    brought_up(at_once, "1.0.0", [V2, V3])
    brought_up(one_by_one, "1.0.0", [V2])
    brought_up(one_by_one, "2.0.0", [V3])
    assert at_once == one_by_one
