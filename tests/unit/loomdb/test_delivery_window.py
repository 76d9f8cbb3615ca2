"""The window of a subscription: nothing is lost, streams keep their order, progress is honest."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from loomos.loomdb import progress
from loomos.loomdb.stream.window import Phase, Window

PLACE = ("loomos.data", 0)
ACK_S = 10.0


@dataclass
class Event:
    offset: int
    stream: str
    place: tuple[str, int] = PLACE

    @property
    def key(self) -> tuple[str, int, str]:
        return (*self.place, self.stream)


def filled(*streams: str, attempts_max: int = 3) -> Window:
    window = Window(ACK_S, attempts_max)
    for offset, stream in enumerate(streams):
        window.add(Event(offset, stream))
    return window


def offsets(items) -> list[int]:
    return [item.entry.offset for item in items]


def test_a_stream_is_with_one_consumer_at_a_time():
    window = filled("a", "a", "b")
    first = window.lease("one", 1, 0)
    assert offsets(first) == [0]
    assert offsets(window.lease("two", 9, 0)) == [2]
    assert offsets(window.lease("one", 9, 0)) == [1]
    for item in first:
        assert window.settle(item.number, item.lease, True, 0)
    assert window.cursor({PLACE: 3}) == {PLACE: 1}


def test_what_fails_comes_again_with_those_behind_it_in_order():
    window = filled("a", "a", "a")
    taken = window.lease("one", 3, 0)
    assert window.settle(taken[1].number, taken[1].lease, False, 0)
    # The third was behind the failed one: its delivery is not under way any more.
    assert not window.settle(taken[2].number, taken[2].lease, True, 0)
    assert window.lease("two", 9, 0) == []
    assert window.settle(taken[0].number, taken[0].lease, True, 0)
    assert window.lease("two", 9, 0) == [], "a failed stream rests a moment"
    window.expire(1.0)
    again = window.lease("two", 9, 1.0)
    assert offsets(again) == [1, 2]
    assert [item.attempts for item in again] == [2, 1]


def test_what_is_late_comes_again_and_dies_after_its_last_delivery():
    window = filled("a", "b", attempts_max=2)
    now = 0.0
    for _ in range(2):
        window.lease("one", 1, now)
        now += ACK_S
        window.expire(now)
        now += 1
        window.expire(now)
        for item in window.lease("other", 9, now):
            if item.entry.offset == 1:
                window.settle(item.number, item.lease, True, now)
            else:
                window.settle(item.number, item.lease, False, now)
                now += 1
                window.expire(now)
    (dead,) = window.dying
    assert (dead.entry.offset, dead.phase) == (0, Phase.DYING)
    assert window.cursor({PLACE: 2}) == {PLACE: 0}, "an event is passed over once it is buried"
    window.buried(window.dying)
    assert window.cursor({PLACE: 2}) == {PLACE: 2}
    assert not window.items


def test_who_leaves_gives_back_what_he_holds():
    window = filled("a", "a", "b")
    assert len(window.lease("one", 9, 0)) == 3
    window.leave("one", 0)
    window.expire(1)
    assert sorted(offsets(window.lease("two", 9, 1))) == [0, 1, 2]
    assert window.held_by("one") == 0 and window.held_by("two") == 3


def test_what_was_delivered_in_vain_is_known_to_the_next_owner():
    window = filled("a", "a", "b")
    taken = window.lease("one", 9, 0)
    window.settle(taken[0].number, taken[0].lease, False, 0)
    window.expire(1)
    assert window.lease("two", 1, 1)[0].attempts == 2
    assert window.failures() == {(PLACE, 0): (1, "failed")}, "what is under way has not failed"
    text = progress.text_of("loomos.data:0:7:0", window.failures())
    assert progress.parse(text) == ("loomos.data:0:7:0", window.failures())
    assert progress.parse("loomos.data:0:7:0") == ("loomos.data:0:7:0", {})
    later = Window(ACK_S, attempts_max=2)
    later.add(Event(0, "a"), 0, *window.failures()[PLACE, 0])
    later.add(Event(1, "a"), 0, 2, "late")
    (dead,) = later.dying
    assert (dead.entry.offset, dead.reason) == (1, "late")
    (last,) = later.lease("three", 9, 0)
    later.settle(last.number, last.lease, False, 0)
    assert offsets(later.dying) == [1, 0]
    later.buried(later.dying)
    assert later.failures() == {} and later.cursor({PLACE: 2}) == {PLACE: 2}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_consumers_do_nothing_is_lost_and_streams_keep_their_order(data):
    count = data.draw(st.integers(1, 12))
    window = Window(ACK_S, 100)
    now, added = 0.0, 0
    under_way: dict[str, list] = {"one": [], "two": []}
    done: list[int] = []
    streams = [data.draw(st.sampled_from("abc")) for _ in range(count)]
    for _ in range(data.draw(st.integers(1, 60))):
        step = data.draw(st.sampled_from(["add", "lease", "done", "fail", "wait", "leave"]))
        who = data.draw(st.sampled_from(["one", "two"]))
        if step == "add" and added < count:
            window.add(Event(added, streams[added]))
            added += 1
        elif step == "lease":
            taken = window.lease(who, data.draw(st.integers(1, 4)), now)
            under_way[who] += [(item, item.lease) for item in taken]
        elif step in ("done", "fail") and under_way[who]:
            item, lease = under_way[who].pop(0)
            if window.settle(item.number, lease, step == "done", now) and step == "done":
                done.append(item.entry.offset)
        elif step == "wait":
            now += data.draw(st.sampled_from([0.5, 11.0]))
            window.expire(now)
        elif step == "leave":
            window.leave(who, now)
            under_way[who] = []
        behind = window.cursor({PLACE: added})[PLACE]
        assert set(range(behind)) <= set(done), "progress passed over an unsettled event"
    for offset in range(added, count):
        window.add(Event(offset, streams[offset]))
    for _ in range(100):
        now += 20.0
        window.expire(now)
        for item in window.lease("last", 100, now):
            assert window.settle(item.number, item.lease, True, now)
            done.append(item.entry.offset)
    assert sorted(done) == list(range(count)), "lost or settled twice"
    for stream in "abc":
        own = [offset for offset in done if streams[offset] == stream]
        assert own == sorted(own), "a stream came out of order"
    assert window.cursor({PLACE: count}) == {PLACE: count}
