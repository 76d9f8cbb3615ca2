"""Cuts: a moment never splits a command, whatever the moment and however the log is read."""

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.decider import Position
from loom.kit.cut import Cut, Edge, Reach, moment_of
from loom.kit.errors import Failure
from loom.log import envelope
from loom.log.clock import now_us
from loom.log.envelope import Origin
from loom.log.judge import START, Judge, Kind, Stamp
from loom.log.reader import Judged
from loom.v1 import common_pb2

T0 = 1_700_000_000_000_000
COMMANDS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 50), st.sampled_from(["", "void", "claim"])),
    max_size=12,
)


def written(commands: list[tuple[int, int, str]]) -> list[Judged]:
    """A partition with commands of so many events, so long after one another."""
    judge, found = Judge(START), []
    at_us, epoch, claim = T0, 0, bytes(16)

    def stored(sealed: envelope.Sealed) -> None:
        verdict = judge.admit(sealed.key, sealed.headers, sealed.value)
        found.append(Judged(len(found), 1, sealed.key, sealed.value, sealed.headers, verdict))

    for number, (events, gap_us, before) in enumerate([(1, 1, "claim"), *commands]):
        at_us += gap_us
        if before == "claim":
            epoch, claim = epoch + 1, bytes([epoch % 256]) * 16
            stamp = Stamp(Kind.MARKER, 0, epoch, claim, 0, 1, 1, judge.before)
            stored(envelope.marker(stamp, "test", at_us))
        notes = [common_pb2.CommandAcknowledged(shard_id="a") for _ in range(events)]
        origin = Origin("/loomos/test", "a", "service:test", f"c-{number}", bytes(32), at_us, at_us,
                        "story", "")  # fmt: skip
        drafts = envelope.draft(notes, range(1, events + 1), origin)
        if before == "void":
            stored(envelope.seal(drafts[0], Stamp(Kind.EVENT, 0, 0, claim, 9, 1, 1, bytes(32))))
        for place, draft in enumerate(drafts, 1):
            stamp = Stamp(Kind.EVENT, 0, epoch, claim, judge.n + 1, place, events, judge.before)
            stored(envelope.seal(draft, stamp))
    return found


@given(COMMANDS, st.integers(-5, 700), st.integers(1, 7))
def test_a_moment_holds_whole_commands_and_all_that_were_by_then(commands, after_us, batch):
    records, until_us = written(commands), T0 + after_us
    edge = Edge(until_us)
    for start in range(0, len(records), batch):
        edge.take(records[start : start + batch])
    events = [one for one in records if one.verdict.kind == Kind.EVENT]
    times = {one.offset: envelope.attributes_in(one.headers).time_us for one in events}
    inside = [one for one in events if one.offset < edge.last.base.offset]
    assert [one.offset for one in inside] == [o for o, at in times.items() if at <= until_us]
    assert edge.last.events == len(inside)
    assert not inside or inside[-1].verdict.closes
    assert edge.passed == any(at > until_us for at in times.values())
    if inside:
        assert edge.last.base == inside[-1].base


@given(COMMANDS, st.integers(0, 700), st.integers(0, 700))
def test_a_later_moment_holds_an_earlier_one(commands, one_us, other_us):
    records = written(commands)
    cuts = []
    for until_us in sorted((T0 + one_us, T0 + other_us)):
        edge = Edge(until_us)
        edge.take(records)
        cuts.append(Cut((Reach("loomos.test", 0, edge.last.base, edge.last.events),), edge.passed))
    earlier, later = cuts
    assert later.holds(earlier)
    assert earlier.events <= later.events
    assert earlier.holds(later) == (earlier.reaches == later.reaches)


def test_a_cut_of_other_partitions_is_not_held():
    whole = Cut((Reach("loomos.test", 0, START, 0),), True)
    assert not whole.holds(Cut((Reach("loomos.test", 1, START, 0),), True))
    assert not whole.holds(Cut((), True))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1700000000000000", 1_700_000_000_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000),
        ("2023-11-14T23:13:20.5+01:00", 1_700_000_000_500_000),
        ("0123456789abcdef0123456789abcdef.3", "0123456789abcdef0123456789abcdef.3"),
        ("loomos.scheduler:0:17", Position("loomos.scheduler", 0, 17, 0)),
        ("loomos.resource-manager:3:17:2", Position("loomos.resource-manager", 3, 17, 2)),
    ],
)
def test_a_moment_is_a_time_an_event_or_a_position(text, moment):
    assert moment_of(text, "as_of") == moment


def test_now_is_a_moment():
    before = now_us()
    assert before <= moment_of("now", "as_of") <= now_us()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("yesterday", "want a time such as"),
        ("2023-11-14T22:13:20", "say which zone"),
        ("1969-12-31T23:59:59Z", "between 1970 and now"),
        (f"{datetime.now(UTC).year + 1}-01-01T00:00:00Z", "between 1970 and now"),
        ("99999999999999999", "between 1970 and now"),
        ("loomos.scheduler:0", "want a time such as"),
        ("postgres.scheduler:0:1", "want a time such as"),
        ("0123456789abcdef", "want a time such as"),
        ("", "want a time such as"),
        ("2023-11-14T22:13:20Z" * 9, "want a time such as"),
    ],
)
def test_what_is_no_moment_is_refused_by_name(text, told):
    with pytest.raises(Failure, match=told) as refused:
        moment_of(text, "as_of")
    assert (refused.value.code, refused.value.field) == ("INVALID_ARGUMENT", "as_of")


def test_waypoints_stand_on_ends_of_commands(monkeypatch):
    monkeypatch.setattr("loom.kit.cut.WAYPOINT_EVENTS", 3)
    records = written([(2, 10, "")] * 8)
    edge = Edge(T0 + 1000)
    edge.take(records)
    ends = {one.offset + 1 for one in records if one.verdict.closes}
    assert len(edge.waypoints) > 2
    assert all(one.base.offset in ends for one in edge.waypoints)
    assert all(b.events >= a.events + 3 for a, b in itertools.pairwise(edge.waypoints))
    # A search that begins at a waypoint ends where one from the beginning does.
    start = edge.waypoints[1]
    again = Edge(T0 + 1000, last=start)
    again.take(records[start.base.offset :])
    assert again.last == edge.last
