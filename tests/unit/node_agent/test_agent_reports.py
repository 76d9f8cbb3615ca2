"""What a job says about itself is read with suspicion."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomos.node_agent.reports import BadReport, Checkpoint, Metric, Progress, parse


@pytest.mark.parametrize(
    ("line", "report"),
    [
        (
            b'{"type": "metric", "name": "accuracy", "value": 0.5, "epoch": 2, "step": 7}',
            Metric("accuracy", 0.5, 2, 7),
        ),
        (b'{"type": "metric", "name": "loss", "value": 3}', Metric("loss", 3.0, 0, 0)),
        (b'{"type": "progress", "epoch": 1, "share": 0.25}', Progress(1, 0, 2500)),
        (b'{"type": "checkpoint", "name": "epoch-1"}', Checkpoint("epoch-1", 0, 0)),
    ],
)
def test_a_report_is_understood(line: bytes, report: object) -> None:
    assert parse(line) == report


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"type": "metric", "name": "a", "value": NaN}', "NaN"),
        (b'{"type": "metric", "name": "a", "value": -Infinity}', "Infinity"),
        (b'{"type": "metric", "name": "a", "value": 1e999}', "finite"),
        (b'{"type": "metric", "name": "a", "value": 1' + b"0" * 400 + b"}", "finite"),
        (b'{"type": "metric", "name": "a", "value": "1"}', "value"),
        (b'{"type": "metric", "name": "a", "value": true}', "value"),
        (b'{"type": "metric", "name": "a b", "value": 1}', "name"),
        (b'{"type": "metric", "name": "a", "value": 1, "epoch": -1}', "epoch"),
        (b'{"type": "metric", "name": "a", "value": 1, "epoch": 1.0}', "epoch"),
        (b'{"type": "metric", "name": "a", "value": 1, "step": 9223372036854775808}', "step"),
        (b'{"type": "metric", "name": "a", "value": 1, "unit": "s"}', "unit"),
        (b'{"type": "progress", "share": 1.5}', "share"),
        (b'{"type": "checkpoint", "name": "../up"}', "name"),
        (b'{"type": "checkpoint", "name": ".hidden"}', "name"),
        (b'{"type": "kill"}', "type"),
        (b"[1]", "object"),
        (b"\xff\xfe", "JSON"),
        (b"", "JSON"),
        (b"[" * 4000, "JSON"),
        (b'"' + b"x" * 5000 + b'"', "bytes"),
    ],
)
def test_a_bad_report_is_refused_by_name(line: bytes, said: str) -> None:
    with pytest.raises(BadReport, match=said):
        parse(line)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.dictionaries(
        st.sampled_from(["type", "name", "value", "epoch", "step", "share", "x"]), inner
    ),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_no_line_does_more_than_be_refused(line: bytes) -> None:
    try:
        report = parse(line)
    except BadReport:
        return
    if isinstance(report, Metric):
        assert math.isfinite(report.value)
