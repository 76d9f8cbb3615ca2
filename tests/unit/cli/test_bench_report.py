"""What a bench reports: medians of pairs, ratios pair by pair, one JSON object a line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.v1 import deployment_pb2 as pb
from loomos.cli.bench import ground, trivial
from loomos.cli.bench.report import Report, Row, paired, percentile, single
from loomos.embedded import jars


def test_a_ratio_is_the_median_of_the_pairs_own_ratios():
    # The second pair ran while the machine was slow: both sides of it are low.
    row = paired("append", "confirmed", [40.0, 10.0, 44.0], "events/s", "peer", [80.0, 20.0, 80.0])
    assert row == Row("append", "confirmed", 40.0, "events/s", "peer", 80.0, 0.5)


def test_every_value_has_its_peer():
    with pytest.raises(ValueError, match="shorter"):
        paired("append", "confirmed", [1.0, 2.0], "events/s", "peer", [1.0])


def test_json_is_one_object_a_line_as_soon_as_it_is_measured(capsys):
    report = Report(as_json=True)
    report.add(single("submit", "running_p50", [3.0, 1.23456, 0.5], "ms"))
    assert json.loads(capsys.readouterr().out) == {
        "bench": "submit",
        "metric": "running_p50",
        "value": 1.235,
        "unit": "ms",
        "peer": "",
        "peer_value": None,
        "ratio": None,
    }
    report.close()
    assert capsys.readouterr().out == ""


def test_a_table_shows_every_row_at_the_end(capsys):
    report = Report(as_json=False)
    report.add(Row("replay", "folded", 123456.7, "events/s", "ConsumerPerformance", 2e5, 0.6))
    assert capsys.readouterr().out == ""
    report.close()
    shown = capsys.readouterr().out
    assert "123,457" in shown
    assert "ConsumerPerformance" in shown


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.1, 100))
def test_a_percentile_is_a_measured_value_that_enough_do_not_exceed(values, percent):
    found = percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) * 100 >= percent * len(values) * (1 - 1e-9)


def test_the_ninety_ninth_of_a_hundred_is_the_last_but_one():
    assert percentile([float(value) for value in range(100)], 99) == 98.0


def test_each_event_takes_the_bytes_that_the_peers_record_has():
    requests = trivial.Requests()
    sizes = {trivial.failed(requests.one()).ByteSize() for _ in range(50)}
    assert sizes == {trivial.PAYLOAD_BYTES}


def test_a_decision_is_one_event_on_the_commands_stream():
    command = trivial.Requests().one()
    [event] = trivial.decide(command, trivial.Failures(trivial.PROJECT), None)
    assert isinstance(event, pb.DeploymentFailed)
    assert event.deployment_id == command.deployment_id


def test_the_peers_figure_is_the_tools_last_word():
    said = (
        "10 records sent, 5.0 records/sec (0.1 MB/sec), 3 ms avg latency\n"
        "50000 records sent, 61234.5 records/sec (29.9 MB/sec), 12.0 ms avg latency\n"
    )
    assert float(ground.PRODUCED.findall(said)[-1]) == 61234.5


def test_the_tools_jar_is_of_the_brokers_version():
    [tools] = jars.locked(jars.TOOLS)
    broker = next(one for one in jars.locked() if ":kafka_2.13:" in one.coordinate)
    assert tools.coordinate.split(":")[2] == broker.coordinate.split(":")[2]
