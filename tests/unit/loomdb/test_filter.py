"""Filters: what they mean, what they refuse, and that nothing an event holds makes them fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.decider import Code, Rejected
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.filter import (
    CONDITIONS_MAX,
    ROOTS,
    checked,
    condition_of,
    document,
    predicate,
    selection,
)

NONE = pb.Filter()
EVENT = document(
    {"type": "model.validation.passed", "stream": "run-7", "at_us": 1_700_000_000_000_000},
    {
        "payload": {
            "accuracy": 0.91,
            "epoch": 12,
            "big": "9007199254740993",
            "flag": True,
            "name": "resnet",
            "labels": ["cat", "dog"],
            "layers": [{"kind": "conv", "size": 3}, {"kind": "dense", "size": 10}],
        },
        "metadata": {"tags": ["gpu", "night"], "priority": "high"},
        "context": {"user_id": "ann"},
        "security": {"access_level": "internal"},
    },
    True,
    "internal",
)


def holds(*where: str) -> bool:
    chosen = selection((), where, NONE)
    return chosen.holds is None or chosen.holds(EVENT)


@pytest.mark.parametrize(
    "condition",
    [
        "payload.accuracy >= 0.8",
        "payload.accuracy < 1",
        "payload.epoch = 12",
        "payload.epoch == 12",
        "payload.epoch in 11,12",
        "payload.epoch in [12, 13]",
        'payload.big = "9007199254740993"',
        "payload.big > 9007199254740000",
        "payload.flag = true",
        "payload.name prefix res",
        "payload.name contains sn",
        "payload.name != vgg",
        "payload.labels contains cat",
        "payload.labels = dog",
        "payload.layers.kind = dense",
        "payload.layers.size > 9",
        "payload.layers exists",
        "tags contains gpu",
        "priority >= normal",
        "priority = high",
        "context.user_id = ann",
        "security.access_level exists",
        "stream = run-7",
        "type prefix model.",
        "at_us > 1699999999999999",
    ],
)
def test_conditions_that_hold(condition):
    assert holds(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "payload.accuracy >= 0.95",
        "payload.flag = 1",
        "payload.epoch = true",
        "payload.name > 3",
        "payload.name >= zebra",
        "payload.missing != 3",
        "payload.missing exists",
        "payload.labels = bird",
        "payload.layers.kind prefix x",
        "priority < high",
        "payload.name.inner exists",
        "context.session_id exists",
    ],
)
def test_conditions_that_do_not_hold(condition):
    assert not holds(condition)


def test_and_or_not_nest():
    def one(text: str) -> pb.Filter:
        return pb.Filter(conditions=[condition_of(text)])

    cat, bird = one("payload.labels contains cat"), one("payload.labels contains bird")
    assert predicate(pb.Filter(any_of=[bird, cat]))(EVENT)
    assert not predicate(pb.Filter(all_of=[bird, cat]))(EVENT)
    assert predicate(pb.Filter(none_of=[bird]))(EVENT)
    assert not predicate(pb.Filter(any_of=[cat], none_of=[pb.Filter(all_of=[cat])]))(EVENT)
    assert predicate(pb.Filter())(EVENT)


def test_types_are_exact_or_begin_so():
    chosen = selection(["job.", "model.validation.*", "data.loaded"], (), NONE)
    wanted = ("job.completed", "model.validation.passed", "data.loaded")
    assert all(chosen.wants_type(name) for name in wanted)
    assert not any(chosen.wants_type(name) for name in ("jobs.x", "model.trained", "data.loaded.x"))
    assert chosen.holds is None
    assert selection((), (), NONE).wants_type("anything.at.all")


@pytest.mark.parametrize(
    "text",
    [
        "payload.n ~ 3",
        "nothing.n = 3",
        "payload = 3",
        "type.x = 3",
        "payload.n",
        "payload.n in " + ",".join(map(str, range(101))),
        "payload.n prefix 3",
        "payload.n = {}",
        "payload.n = null",
        "priority >= urgent",
        "payload." + "a." * 20 + "b = 1",
        "payload.n = " + "x" * 1100,
        "payload..n = 1",
        "' OR 1=1 -- = 2",
    ],
)
def test_textual_conditions_are_refused_naming_what_is_wrong(text):
    with pytest.raises(Rejected) as refused:
        selection((), [text], NONE)
    assert refused.value.code == Code.INVALID_ARGUMENT
    assert refused.value.field == "where[0]"


def test_a_filter_is_bounded_in_depth_and_in_width():
    tree = pb.Filter(conditions=[condition_of("payload.n exists")])
    for _ in range(9):
        tree = pb.Filter(all_of=[tree])
    with pytest.raises(Rejected, match="deeper"):
        checked(tree)
    wide = pb.Filter(conditions=[condition_of("payload.n exists")] * (CONDITIONS_MAX + 1))
    with pytest.raises(Rejected, match="conditions"):
        checked(wide)
    bushy = pb.Filter(all_of=[pb.Filter(any_of=[pb.Filter()] * 60)] * 6)
    with pytest.raises(Rejected, match="filters"):
        checked(bushy)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3)
    ),
    max_leaves=8,
)
conditions = st.builds(
    pb.FilterCondition,
    path=st.sampled_from(
        [f"payload.{rest}" for rest in ("a", "a.b", "a.b.c", "b.c")] + ["priority", "tags", "at_us"]
    ),
    operator=st.sampled_from([n for n in pb.FilterOperator.values() if n]),
    values=st.lists(
        st.one_of(
            st.builds(lambda x: condition_of(f"payload.x = {x}").values[0], st.integers(-5, 5)),
            st.sampled_from(
                [condition_of(f"payload.x = {x}").values[0] for x in ("true", "high", "gpu", "0.5")]
            ),
        ),
        max_size=2,
    ),
)
filters = st.recursive(
    st.builds(pb.Filter, conditions=st.lists(conditions, max_size=2)),
    lambda inner: st.builds(
        pb.Filter,
        all_of=st.lists(inner, max_size=2),
        any_of=st.lists(inner, max_size=2),
        none_of=st.lists(inner, max_size=2),
    ),
    max_leaves=6,
)


@given(filters, json_values, st.booleans())
def test_any_checked_filter_answers_about_any_event(tree, payload, users):
    shape = payload if isinstance(payload, dict) else {"a": payload}
    row = {"payload": shape, "metadata": {"tags": payload, "priority": payload}} if users else shape
    event = document({"type": "t"}, row, users, "internal")
    try:
        checked(tree)
    except Rejected:
        return
    answer = predicate(tree)(event)
    assert answer is predicate(tree)(event)
    assert predicate(pb.Filter(none_of=[tree]))(event) is not answer


def test_every_root_can_be_asked():
    for root in ROOTS:
        path = f"{root}.x" if root in ("context", "security", "payload", "data") else root
        assert selection((), [f"{path} exists"], NONE).holds is not None


def test_a_condition_that_means_nothing_is_named_by_its_place():
    wrong = pb.FilterCondition(path="payload", operator=pb.FILTER_OPERATOR_EXISTS)
    tree = pb.Filter(any_of=[pb.Filter(), pb.Filter(conditions=[wrong])])
    with pytest.raises(Rejected) as error:
        selection((), ["payload.n exists"], tree)
    assert error.value.field == "filter.any_of[1].conditions[0].path"
    with pytest.raises(Rejected, match="more than 64 conditions"):
        selection((), ["payload.n exists"] * 64, pb.Filter(conditions=[condition_of("type = x")]))


def test_a_users_event_answers_to_its_own_names_too():
    row = {"event_id": "Start-1", "stream_id": "acme/run-7", "payload": {"n": 1}}
    log = {"event_id": "00ff.1", "stream": "acme/run-7", "type": "lab.done"}
    event = document(log, row, True, "internal")
    for text in (
        "event_id = Start-1", "event_id = 00ff.1", "event_id in 00ff.1,x", "stream = run-7",
        "stream = acme/run-7", "stream prefix run", "stream contains n-7", "data.n >= 1",
    ):  # fmt: skip
        assert predicate(pb.Filter(conditions=[condition_of(text)]))(event), text
    for text in ("event_id = run-7", "stream = Start-1", "stream != run-7"):
        assert not predicate(pb.Filter(conditions=[condition_of(text)]))(event), text
