"""Tensors and the linear plugin, purely; the doors' own walk is an integration test."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loom.kit.errors import Failure
from loomos.runtime import frames
from loomos.runtime.frames import raw_of
from loomos.runtime.plugins import DTYPES, BadModel, TensorSpec, sklearn_linear
from loomos.runtime.process import WorkerGone, checked
from loomos.runtime.tensors import Given, arrays_of
from loomos.runtime.worker import unpacked

REAL = st.floats(-(2.0**99), 2.0**99, width=32)


def spec(datatype: str = "FP32", width: int = 3) -> TensorSpec:
    return TensorSpec("input", datatype, (-1, width))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(REAL, min_size=3, max_size=3), min_size=1, max_size=5))
def test_raw_flat_and_nested_say_the_same(rows: list[list[float]]) -> None:
    array = np.array(rows, "<f4")
    ways = (
        {"raw": array.tobytes()},
        {"values": rows},
        {"values": [value for row in rows for value in row]},
    )
    for way in ways:
        found = arrays_of([Given("input", "FP32", array.shape, **way)], [spec()])
        assert np.array_equal(found["input"], array)


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(HOSTILE, st.sampled_from(sorted(DTYPES)), st.lists(st.integers(-2, 2**70), max_size=4))
def test_hostile_values_give_a_finite_array_or_a_named_field(
    values: Any, datatype: str, shape: list[int]
) -> None:
    for given_shape in (shape, [1, 3]):
        try:
            found = arrays_of(
                [Given("input", datatype, given_shape, values=values)], [spec(datatype)]
            )
        except Failure as failure:
            assert failure.field.startswith("inputs")
        else:
            assert found["input"].dtype == DTYPES[datatype]
            assert np.isfinite(found["input"]).all()


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("INT8", [1, 2, 128]),
        ("UINT8", [0, 1, -1]),
        ("INT64", [1.0, 2.0, 3.0]),
        ("INT64", [2**63, 0, 0]),
        ("BOOL", [0, 1, 1]),
        ("FP16", [70000.0, 0.0, 0.0]),
        ("FP32", [1e39, 0.0, 0.0]),
    ],
)
def test_numbers_outside_the_type_are_refused(datatype: str, values: list[Any]) -> None:
    with pytest.raises(Failure) as refused:
        arrays_of([Given("input", datatype, [1, 3], values=values)], [spec(datatype)])
    assert refused.value.field == "inputs[0].data"


def test_rows_must_agree_between_inputs() -> None:
    specs = [spec(), TensorSpec("weight", "FP32", (-1,))]
    given_ = [
        Given("input", "FP32", [1, 3], values=[1.0, 2.0, 3.0]),
        Given("weight", "FP32", [2], values=[1.0, 2.0]),
    ]
    with pytest.raises(Failure, match="2 rows where the inputs before have 1"):
        arrays_of(given_, specs)


def test_a_bool_is_zero_or_one() -> None:
    with pytest.raises(Failure, match="BOOL is 0 or 1"):
        arrays_of([Given("input", "BOOL", [1, 3], raw=b"\0\1\2")], [spec("BOOL")])


def test_frames_carry_arrays_and_bound_their_lengths() -> None:
    array = np.arange(6, dtype="<f4").reshape(2, 3)
    head = {"inputs": [["input", "FP32", [2, 3]]]}
    prefix, text, body = frames.encode(head, raw_of(array, "FP32"))
    assert frames.lengths(prefix) == (len(text), len(body))
    assert np.array_equal(unpacked(head["inputs"], body)["input"], array)
    with pytest.raises(frames.FrameTooLarge):
        frames.lengths(frames.LENGTHS.pack(1, 2**32 - 1))


@pytest.mark.parametrize(
    "told", [["label", "INT64", [3]], ["label", "FP32", [2]], ["other", "INT64", [2]]]
)
def test_an_answer_that_was_not_declared_condemns_the_worker(told: list[Any]) -> None:
    declared = (TensorSpec("label", "INT64", (-1,)),)
    good = checked({"outputs": [["label", "INT64", [2]]]}, b"\0" * 16, declared, 2)
    assert good["label"].tolist() == [0, 0]
    with pytest.raises(WorkerGone):
        checked({"outputs": [told]}, b"\0" * 64, declared, 2)


def npz(**arrays: Any) -> dict[str, io.BytesIO]:
    file = io.BytesIO()
    np.savez(file, **arrays)
    file.seek(0)
    return {"model.npz": file}


def test_two_classes_share_one_row_of_weights() -> None:
    model = sklearn_linear.load(npz(coef=[[2.0, 0.0]], intercept=[-1.0], classes=[3, 8]))
    found = model.infer({"input": np.array([[0.0, 9.0], [1.0, 9.0]], np.float32)})
    assert found["label"].tolist() == [3, 8]
    assert found["scores"].tolist() == [[1.0, -1.0], [-1.0, 1.0]]


GOOD: dict[str, Any] = {"coef": np.eye(3), "intercept": np.zeros(3), "classes": np.arange(3)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"coef": np.full((3, 3), np.nan)},
        {"coef": np.zeros(3)},
        {"coef": np.zeros((3, 0))},
        {"intercept": np.zeros(2)},
        {"classes": np.array([0])},
        {"classes": np.array(["a", "b", "c"])},
        {"mean": np.zeros(4)},
        {"scale": np.zeros(3)},
    ],
)
def test_models_that_do_not_fit_together_are_refused(wrong: dict[str, Any]) -> None:
    assert len(sklearn_linear.load(npz(**GOOD)).inputs) == 1
    with pytest.raises(BadModel):
        sklearn_linear.load(npz(**{**GOOD, **wrong}))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_no_model(data: bytes) -> None:
    with pytest.raises(BadModel):
        sklearn_linear.load({"model.npz": io.BytesIO(data)})
