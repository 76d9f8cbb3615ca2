"""Hybrid time on a wall clock that jumps to and fro: later than before, and than its cause."""

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from loom.log import clock

MICROSECONDS = st.integers(min_value=0, max_value=2**60)


@given(st.lists(st.tuples(MICROSECONDS, MICROSECONDS, MICROSECONDS), min_size=1))
def test_time_grows_whatever_the_wall_says(told):
    one = clock.Clock()
    for wall_us, cause_us, heard_us in told:
        before_us = one.last_us
        one.witness(heard_us)
        with patch.object(clock, "now_us", lambda wall_us=wall_us: wall_us):
            at_us = one.tick(cause_us)
        assert at_us > max(before_us, cause_us, heard_us)
        assert at_us >= wall_us


def test_it_follows_the_wall_again_once_that_has_caught_up():
    one = clock.Clock(last_us=1_000)
    with patch.object(clock, "now_us", lambda: 10):
        assert [one.tick(), one.tick()] == [1_001, 1_002]
    with patch.object(clock, "now_us", lambda: 5_000):
        assert one.tick() == 5_000
