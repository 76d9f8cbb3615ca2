"""Spans of time as keys: every event of a range is under a key of it."""

from hypothesis import given
from hypothesis import strategies as st

from loomos.loomdb.spans import KEYS_MAX, WIDTH_US_MAX, cut, keys, path_of, spans_of

TIMES = st.integers(0, 2**52)
WIDTHS = st.one_of(st.integers(1, 2**30), st.integers(1, WIDTH_US_MAX))


@given(TIMES, WIDTHS, st.booleans(), st.floats(0, 1))
def test_every_event_of_a_range_is_under_one_of_its_keys(begin_us, width_us, descending, part):
    begin, end = cut(begin_us + 1, width_us, descending)
    assert begin < end
    assert (end if descending else begin) == begin_us + 1
    at_us = begin + int((end - begin - 1) * part)
    asked = keys(begin, end)
    assert len(asked) <= KEYS_MAX + 2
    assert len({*asked} & {*spans_of(at_us)}) == 1
    name, _, tests = path_of(begin, end).partition(" ? ")
    place = int(name.removeprefix('$."span"[').removesuffix("]"))
    assert f'@ == "{spans_of(at_us)[place]}"' in tests


@given(TIMES, WIDTHS, st.booleans())
def test_ranges_follow_each_other_to_the_end_of_time(begin_us, width_us, descending):
    at_us = begin_us + 1
    for _ in range(3):
        begin, end = cut(at_us, width_us, descending)
        assert (end if descending else begin) == at_us
        at_us = begin if descending else end
        if not at_us:
            break
