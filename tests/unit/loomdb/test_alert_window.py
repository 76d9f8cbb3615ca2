"""Windows of alert rules: by the log's times alone, bounded, and the same from any beginning."""

from hypothesis import given
from hypothesis import strategies as st

from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.stream.alert_window import GROUPS_MAX, Watch, needed

S = 1_000_000


def watch(cooldown_seconds=300, window_seconds=60, **condition):
    made = pb.AlertCondition(window_seconds=window_seconds, **condition)
    return Watch(pb.AlertSpec(condition=made, cooldown_seconds=cooldown_seconds))


def played(found, events, fresh=True):
    """The ids of the events that raise, as `decide` would let them."""
    raised = []
    for at_us, event_id in events:
        crossing = found.seen("", at_us, event_id, fresh)
        if crossing is not None:
            raised.append(event_id)
            found.raised("", f"alert-{event_id}", event_id, at_us)
    return raised


def test_as_many_as_it_takes_within_one_window():
    found = watch(count_min=3)
    assert played(found, [(0, "a"), (30 * S, "b"), (61 * S, "c")]) == []
    assert played(found, [(62 * S, "d")]) == ["d"]


def test_a_rate_is_a_number_of_events_rounded_up():
    rate = pb.AlertCondition(rate_per_minute_min=7, window_seconds=10)
    assert needed(rate) == 2
    assert (
        needed(pb.AlertCondition(rate_per_minute_min=10_000, window_seconds=86_400)) == 14_400_000
    )


def test_what_comes_in_the_cool_down_is_counted():
    found = watch(count_min=1)
    assert played(found, [(n * S, str(n)) for n in range(301)]) == ["0", "300"]
    found = watch(count_min=1)
    played(found, [(n * S, str(n)) for n in range(300)])
    ((group, count),) = found.suppressions()
    assert count == 299 and group.suppressed_to_us == 299 * S
    assert found.suppressions() == []


def test_silence_is_told_once_and_again_after_a_match():
    found = watch(absent_seconds=60, cooldown_seconds=1)
    found.seen("gpu", 10 * S, "a", True)
    assert found.silent(69 * S) == []
    assert found.silent(70 * S) == ["gpu"]
    found.raised("gpu", "alert-1", "a", 70 * S)
    assert found.silent(700 * S) == []
    found.seen("gpu", 80 * S, "b", True)
    assert found.silent(140 * S) == ["gpu"]


def test_groups_are_bounded():
    found = watch(count_min=2)
    for n in range(GROUPS_MAX + 50):
        found.seen(str(n), n, str(n), True)
    assert len(found.groups) == GROUPS_MAX


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=60),
    st.integers(1, 4),
    st.integers(1, 50),
    st.integers(0, 60),
)
def test_a_reader_that_begins_anew_raises_the_same(gaps, count, cooldown, cut):
    at_us, events = 0, []
    for number, gap in enumerate(gaps):
        at_us += gap * S
        events.append((at_us, str(number)))
    settings = {"count_min": count, "cooldown_seconds": cooldown}
    whole = played(watch(**settings), events)
    cut = min(cut, len(events))
    first = watch(**settings)
    before = played(first, events[:cut])
    again = watch(**settings)
    old = first.groups.get("")
    if old is not None and old.alert_id:
        again.raised("", old.alert_id, old.cause_id, old.raised_us)
    reached = events[cut - 1][0] if cut else 0
    played(again, [one for one in events[:cut] if one[0] >= reached - again.lookback_us], False)
    assert before + played(again, events[cut:]) == whole
