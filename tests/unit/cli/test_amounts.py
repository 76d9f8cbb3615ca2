"""Amounts as people write them: exact, refused by field where they are not."""

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from loomos.cli import amounts


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (amounts.seconds_of, "15s", 15),
        (amounts.seconds_of, "1h30m", 5400),
        (amounts.seconds_of, "1.5m", 90),
        (amounts.seconds_of, "3000ms", 3),
        (amounts.seconds_of, "", 0),
        (amounts.bytes_of, "512MiB", 512 * 2**20),
        (amounts.bytes_of, "1.5GiB", 3 * 2**29),
        (amounts.bytes_of, "2GB", 2 * 10**9),
        (amounts.bytes_of, "7", 7),
        (amounts.micro_dollars_of, "5$", 5_000_000),
        (amounts.micro_dollars_of, "$0.25", 250_000),
        (amounts.micro_dollars_of, "0.000001$", 1),
        (amounts.milli_of, "2", 2000),
        (amounts.milli_of, "0.5", 500),
        (amounts.milli_of, "250m", 250),
    ],
)
def test_known_forms(parse, text, value):
    assert parse("--field", text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (amounts.seconds_of, "10"),
        (amounts.seconds_of, "1.5ms"),
        (amounts.seconds_of, "-5s"),
        (amounts.seconds_of, "1h and a bit"),
        (amounts.bytes_of, "512 mib"),
        (amounts.bytes_of, "0.3B"),
        (amounts.bytes_of, "nan"),
        (amounts.micro_dollars_of, "5€"),
        (amounts.micro_dollars_of, "0.0000001$"),
        (amounts.micro_dollars_of, "1e308"),
        (amounts.milli_of, "0.0001"),
        (amounts.milli_of, "9" * 40),
    ],
)
def test_another_form_is_refused_by_field_and_value(parse, text):
    with pytest.raises(typer.BadParameter) as refused:
        parse("--field", text)
    assert refused.value.param_hint == "--field"
    assert repr(text) in refused.value.message


@given(st.integers(0, 10**9))
def test_a_duration_that_was_shown_can_be_given(seconds):
    assert amounts.seconds_of("--field", amounts.seconds_text(seconds)) == seconds


@given(st.integers(0, 10**17))
def test_money_that_was_shown_can_be_given(micro_dollars):
    text = amounts.dollars_text(micro_dollars).replace(",", "")
    assert amounts.micro_dollars_of("--field", text) == micro_dollars


@given(st.integers(0, 10**11))
def test_thousandths_that_were_shown_can_be_given(milli):
    assert amounts.milli_of("--field", amounts.milli_text(milli)) == milli


def test_pairs_are_named_once():
    assert amounts.pairs_of("--env", ["A=1", "B=x=y"]) == {"A": "1", "B": "x=y"}
    for bad in (["A"], ["=1"], ["A=1", "A=2"]):
        with pytest.raises(typer.BadParameter):
            amounts.pairs_of("--env", bad)
