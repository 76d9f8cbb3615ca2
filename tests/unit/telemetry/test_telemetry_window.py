"""Windows over GPU samples: what they add up, and when they alarm."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomos.telemetry.window import XID_FALLEN_OFF, BadSample, fold, health, parse

CALM = {"node_id": "node-1", "uuid": "GPU-1", "temperature_celsius": 50, "ecc_double_bit": 3}


def window(*samples: dict[str, Any]) -> dict[str, Any]:
    folded: dict[str, Any] = {}
    for sample in samples:
        folded = fold(folded, parse(json.dumps(CALM | sample).encode()))
    return folded


def test_a_calm_window_tells_nothing() -> None:
    assert health("GPU-1", window({}, {})) is None


@pytest.mark.parametrize(
    ("samples", "field", "value"),
    [
        (({}, {"temperature_celsius": 90}), "temperature_celsius_max", 90),
        (({}, {"ecc_double_bit": 5}), "ecc_uncorrectable", 2),
        (({"xids": [48]}, {"xids": [31, 48]}), "xids", [31, 48]),
        (({"lost": True},), "xids", [XID_FALLEN_OFF]),
    ],
)
def test_an_alarm_says_what_was_seen(
    samples: tuple[dict[str, Any], ...], field: str, value: Any
) -> None:
    told = health("GPU-1", window(*samples))
    assert told is not None
    assert getattr(told, field) == value


@pytest.mark.parametrize(
    "wrong",
    [
        {"node_id": ""},
        {"uuid": 5},
        {"temperature_celsius": -1},
        {"temperature_celsius": 50.5},
        {"memory_used_bytes": 2**63},
        {"xids": "79"},
        {"xids": [True]},
        {"xids": list(range(100))},
    ],
)
def test_a_bad_sample_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSample):
        parse(json.dumps(CALM | wrong).encode())


@given(st.binary(max_size=300))
def test_garbage_is_refused(record: bytes) -> None:
    with pytest.raises(BadSample):
        parse(record)
