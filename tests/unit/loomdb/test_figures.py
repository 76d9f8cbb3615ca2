"""Counts, rates, percentiles and projections against numbers worked out by hand."""

import json
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from loomos.loomdb import figures
from loomos.loomdb.figures import Event, Question, bucket_of, month_after, projected
from loomos.loomdb.searchable import searchable

JAN = 1_704_067_200_000_000
FEB = 1_706_745_600_000_000
MAR = 1_709_251_200_000_000
HOUR = 3_600_000_000


def event(at_us: int, kind: str = "a", span: str = "s", **more) -> Event:
    return Event(at_us, kind, span, more.get("keys", ()), more.get("outcome"), more.get("cost"))


def test_spans_of_time_begin_where_people_think():
    assert bucket_of(FEB + 5, "1mo") == FEB
    assert bucket_of(FEB - 1, "1mo") == JAN
    assert month_after(JAN) == FEB
    assert month_after(FEB) == MAR
    assert bucket_of(JAN + HOUR * 3 // 2, "1h") == JAN + HOUR
    assert bucket_of(JAN + HOUR * 25, "1d") == JAN + HOUR * 24
    assert bucket_of(JAN, "") == 0


def test_a_percentile_is_a_value_of_nearest_rank():
    assert [figures.percentile(range(1, 11), p) for p in (50, 95, 99)] == [5, 10, 10]
    assert figures.percentile(range(1, 101), 95) == 95
    assert figures.percentile([7], 50) == 7
    assert figures.percentile([], 99) == 0


def test_rates_are_rounded_half_up():
    assert figures.permille(1, 1) == 500
    assert figures.permille(2, 1) == 667
    assert figures.permille(1, 1999) == 1
    assert figures.permille(1, 2001) == 0
    assert figures.permille(0, 0) == 0


def test_what_two_groups_come_to():
    question = Question("1mo", frozenset({"ok"}), frozenset({"bad"}), "begin", frozenset({"end"}))
    found = figures.summed(
        [
            event(JAN, "begin", "r1", keys=("m",)),
            event(JAN + 1, "begin", "r2", keys=("m",)),
            event(JAN + 5, "end", "r2", keys=("m",), outcome="ok", cost="10"),
            event(JAN + 9, "end", "r1", keys=("m",), outcome="bad", cost="-3"),
            event(JAN + 10, "end", "r1", keys=("m",), outcome="else", cost="1e9"),
            event(FEB, "end", "r9", keys=("n",)),
        ],
        question,
    )
    one = found[("m",), JAN]
    assert (one.count, one.successes, one.failures, one.cost, one.odd_costs) == (5, 1, 1, 7, 1)
    assert one.durations_us == [4, 9]
    assert found[("n",), FEB].count == 1


def test_dollars_and_cents_are_added_exactly():
    amounts = ["0.1", "0.2", "-1.25", "7", "45.60", "1" * 19, "0." + "1" * 19, "NaN", ""]
    (found,) = figures.summed([event(JAN, cost=one) for one in amounts], Question()).values()
    assert (figures.decimal(found.cost), figures.whole(found.cost)) == ("51.65", 52)
    assert (found.costs, found.odd_costs) == (9, 4)
    assert [figures.decimal(Fraction(one)) for one in ("-0.5", "2", "1e-18")] == [
        "-0.5", "2", "0.000000000000000001",
    ]  # fmt: skip
    ahead = projected([Fraction(1, 2), Fraction(3, 2), Fraction(5, 2)], JAN, 1)
    assert ahead[0].cost == round(Fraction(7, 2))


def test_a_line_goes_on_as_a_line():
    ahead = projected([100, 200, 300], JAN, 2)
    assert ahead[0].month_us == 1_711_929_600_000_000
    assert [tuple(one[1:]) for one in ahead] == [(400,) * 5, (500,) * 5]
    assert projected([1, 2], JAN, 3) == []


def test_a_projection_against_one_made_by_hand():
    # x = 0..3, y = 10, 20, 20, 30: mean x 1.5, mean y 20, Sxx 5, Sxy 30, b 6, a 11; residuals
    # -1, 3, -3, 1: SSE 20, s² 10. At x = 4: 35, s sqrt(1 + 1/4 + 6.25/5) = sqrt(25) = 5.
    (one,) = projected([10, 20, 20, 30], JAN, 1)
    assert one.cost == 35
    assert (one.low_80, one.high_80) == (26, 44)  # t(2) = 1.886: 9.43 either way
    assert (one.low_95, one.high_95) == (13, 57)  # t(2) = 4.303: 21.515 either way


@given(st.lists(st.integers(-(10**15), 10**15), min_size=3, max_size=40))
def test_intervals_lie_in_one_another(costs):
    for one in projected(costs, JAN, 3):
        assert one.low_95 <= one.low_80 <= one.cost <= one.high_80 <= one.high_95


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_searched_is_json_without_what_postgres_refuses(value):
    text = searchable(value)
    text.encode()
    assert "\\u0000" not in text.replace("\\\\", "")
    json.loads(text, parse_constant=lambda name: 1 / 0)
