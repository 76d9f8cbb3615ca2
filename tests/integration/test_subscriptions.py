"""Streams of events as processes serve them: whole, in order, filtered, and only to who may see."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from tests.doors import PASSWORD, Person
from tests.streaming import Collected, Streams, event, numbered, refused, shown, until

# Starting five processes on a busy machine is no part of a test's time.
pytestmark = pytest.mark.timeout(120, func_only=True)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "fill": {"type": "string"}}}
STREAM = "/api/v1/organisations/{}/event-stream"


@pytest.fixture(scope="module")
def streams(module_platform) -> Iterator[Streams]:
    found = Streams(module_platform)
    try:
        found.up()
        for organisation in ("acme", "other"):
            found.command(
                found.people[f"boss@{organisation}"],
                f"/api/v1/organisations/{organisation}/schemas/test.sample.taken/versions",
                version="1.0.0",
                schema_json=json.dumps(SCHEMA),
            )
        yield found
    finally:
        found.down()


def test_catching_up_meets_what_comes_without_gap_or_double(streams):
    eng = streams.people["eng@acme"]
    expected = streams.append(eng, "acme", list(numbered("before", 400)))
    appending = threading.Thread(
        target=lambda: expected.extend(streams.append(eng, "acme", list(numbered("while", 400))))
    )
    appending.start()
    readers = [
        Collected(eng, STREAM.format("acme"), start="STREAM_START_BEGINNING", types="test.")
        for _ in range(3)
    ]
    appending.join()
    expected += streams.append(eng, "acme", list(numbered("after", 100)))
    for reader in readers:
        until(lambda reader=reader: expected[-1] in reader.own_ids)
        assert reader.own_ids[-len(expected) :] == expected
        reader.close()


def test_a_stream_goes_on_behind_a_cursor_a_time_and_an_event(streams):
    eng = streams.people["eng@acme"]
    streams.append(eng, "acme", list(numbered("cursor", 5)))
    first = Collected(
        eng, STREAM.format("acme"), start="STREAM_START_BEGINNING", types="test.", batch_size=1
    )
    until(lambda: "cursor-4" in first.own_ids)
    at = first.own_ids.index("cursor-2")
    flow = [one for one in first.messages if one["events"]][at]
    told = flow["events"][0]
    for begin in (
        {"cursor": flow["cursor"]},
        {"from_event_id": told["event_id"]},
        {"from_us": first.events[at + 1]["at_us"]},
    ):
        later = Collected(eng, STREAM.format("acme"), types="test.", until_live="true", **begin)
        assert later.done.wait(60)
        assert later.own_ids[-2:] == ["cursor-3", "cursor-4"], begin
    first.close()


def test_server_sent_events_go_on_behind_the_last_id(streams):
    eng = streams.people["eng@acme"]
    streams.append(eng, "acme", list(numbered("sse", 3)))
    shown(eng, STREAM.format("acme"), "sse-2")
    params = {"types": "test.", "start": "STREAM_START_BEGINNING", "until_live": "true"}

    def read(**headers: str) -> list[tuple[str, str]]:
        """Each event's name, and the id of the answer that brought it."""
        answer = eng.http.get(
            STREAM.format("acme"),
            params=params | {"batch_size": 1},
            headers={"accept": "text/event-stream"} | headers,
        )
        found = []
        for block in answer.text.split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines())
            for one in json.loads(lines.get("data", "{}")).get("events", ()):
                found.append((one["payload"]["event_id"], lines["id"]))
        return found

    names = dict(read())
    assert list(names)[-3:] == ["sse-0", "sse-1", "sse-2"]
    assert list(dict(read(**{"last-event-id": names["sse-1"]}))) == ["sse-2"]


def test_filters_are_asked_where_the_events_are(streams):
    eng = streams.people["eng@acme"]
    metadata = {"tags": ["gpu", "night"], "priority": "critical"}
    told = [
        event("f-1", {"n": 1, "deep": {"name": "alpha"}}, metadata=metadata),
        event("f-2", {"n": 2, "deep": {"name": "beta"}}, metadata={"tags": ["cpu"]}),
        event("f-3", {"n": 3}, context={"user_id": "ann"}),
    ]
    streams.append(eng, "acme", told)
    shown(eng, STREAM.format("acme"), "f-3")

    def found(*where: str, **more: object) -> list[str]:
        reader = Collected(
            eng,
            STREAM.format("acme"),
            start="STREAM_START_BEGINNING",
            types="test.sample.taken",
            where=list(where),
            until_live="true",
            **more,
        )
        assert reader.done.wait(60) and reader.error is None, reader.error
        return [name for name in reader.own_ids if name.startswith("f-")]

    assert found("tags contains gpu") == ["f-1"]
    assert found("priority >= high") == ["f-1"]
    assert found("payload.n in 2,3", "priority <= normal") == ["f-2", "f-3"]
    assert found("payload.deep.name prefix al") == ["f-1"]
    assert found("payload.deep.name exists") == ["f-1", "f-2"]
    assert found("context.user_id = ann") == ["f-3"]
    tree = {
        "any_of": [
            {"conditions": [{"path": "payload.n", "operator": "FILTER_OPERATOR_EQUAL",
                             "values": [1]}]},
            {"conditions": [{"path": "tags", "operator": "FILTER_OPERATOR_CONTAINS",
                             "values": ["cpu"]}]},
        ],
        "none_of": [{"conditions": [{"path": "stream", "operator": "FILTER_OPERATOR_PREFIX",
                                     "values": ["nobody"]}]}],
    }  # fmt: skip
    answer = eng.post(
        STREAM.format("acme"),
        {"filter": tree, "start": "STREAM_START_BEGINNING", "until_live": True, "types": ["test."]},
    )
    lines = [json.loads(line) for line in answer.text.splitlines()]
    names = [one["payload"]["event_id"] for flow in lines for one in flow["events"]]
    assert [name for name in names if name.startswith("f-")] == ["f-1", "f-2"]


def test_what_a_caller_may_not_see_is_left_out_silently(streams):
    eng, boss = streams.people["eng@acme"], streams.people["boss@acme"]
    secret = event("secret-1", {"n": 1}, security={"data_classification": "phi"})
    streams.append(eng, "acme", [secret, event("open-1", {"n": 2})])
    shown(eng, STREAM.format("acme"), "open-1")
    seen = {}
    for who, person, whose in (
        ("boss", boss, "acme"),
        ("eng", eng, "acme"),
        ("stranger", streams.people["eng@other"], "acme"),
        ("root", streams.root, "platform"),
    ):
        reader = Collected(
            person, STREAM.format(whose), start="STREAM_START_BEGINNING", until_live="true"
        )
        assert reader.done.wait(60) and reader.error is None, reader.error
        seen[who] = reader.events
    names = {
        who: {e["payload"].get("event_id") for e in events if e["type"].startswith("test.")}
        for who, events in seen.items()
    }
    assert {"secret-1", "open-1"} <= names["boss"] & names["root"]
    assert "open-1" in names["eng"] and "secret-1" not in names["eng"]
    assert {e["type"] for e in seen["eng"]} == {"test.sample.taken"}
    assert seen["stranger"] == []
    assert {e["organisation_id"] for e in seen["boss"]} == {"acme"}
    reads = [e for e in seen["root"] if e["type"] == "audit.trail.read"]
    assert any(e["payload"]["method"] == "Subscribe" for e in reads)


def test_withdrawn_rights_end_a_stream(streams):
    grant = {"role": "USER_ROLE_VIEWER", "scope_id": "acme"}
    told = {"user_name": "gone", "password": PASSWORD, "roles": [grant]}
    streams.command(streams.root, "/api/v1/users", organisation_id="acme", **told)
    gone = Person(streams, "acme", "gone")
    reader = Collected(gone, STREAM.format("acme"), types="test.")
    until(lambda: any(one["live"] for one in reader.messages))
    user = gone.principal.removeprefix("user:")
    answer = streams.root.post(f"/api/v1/users/{user}/suspend", {"reason": "left"})
    assert answer.is_success, answer.text
    # Nothing else happens: no event need come for it to end.
    assert reader.done.wait(60)
    assert reader.error is not None and reader.error["code"] == "PERMISSION_DENIED"


def test_a_stuck_reader_harms_nobody(streams):
    eng = streams.people["eng@acme"]
    fast = Collected(eng, STREAM.format("acme"), types="test.")
    stuck = stuck_reader(streams, eng.token)
    try:
        until(lambda: any(one["live"] for one in fast.messages))
        fill = "x" * 20_000
        told = [event(f"big-{n}", {"n": n, "fill": fill}) for n in range(300)]
        for begin in range(0, 300, 30):
            streams.append(eng, "acme", told[begin : begin + 30])
        until(lambda: "big-299" in fast.own_ids)
        assert [one for one in fast.own_ids if one.startswith("big-")] == [
            f"big-{n}" for n in range(300)
        ]
        # The stuck one goes on where it was once it reads again.
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_048_576)
        seen = b""
        while b"big-299" not in seen[-100_000:] or seen.count(b'"event_id":"big-') < 300:
            part = stuck.recv(1_000_000)
            assert part, "the stream of the stuck reader ended"
            seen += part
        assert seen.count(b'"event_id":"big-') == 300
    finally:
        stuck.close()
        fast.close()


def stuck_reader(streams: Streams, token: str) -> ssl.SSLSocket:
    """A stream that became live and that nobody reads any further."""
    host, _, port = streams.address.partition(":")
    trust = ssl.create_default_context(
        cafile=str(streams.by_name["gateway"].settings.ca_certificate)
    )
    raw = socket.create_connection((host, int(port)))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    own = trust.wrap_socket(raw, server_hostname=host)
    path = STREAM.format("acme") + "?types=test."
    own.sendall(
        f"GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n"
        "accept: application/x-ndjson\r\n\r\n".encode()
    )
    own.settimeout(60)
    seen = b""
    # Its place is known then: what is appended from now on is for it too.
    while b'"live":true' not in seen:
        part = own.recv(4096)
        assert part, seen
        seen += part
    return own


@pytest.mark.parametrize(
    "params",
    [
        {"where": "payload.n ~ 3"},
        {"where": "nothing.n = 3"},
        {"where": "payload = 3"},
        {"types": "JOB"},
        {"types": "job.*.x"},
        {"cursor": "loomos.data:0:1"},
        {"cursor": "loomos.nothing:0:1:0"},
        {"cursor": "loomos.data:0:999999999:0"},
        {"cursor": "loomos.data:0:1:0,loomos.data:0:2:0"},
        {"start": "STREAM_START_BEGINNING", "from_us": 5},
        {"from_us": -1},
        {"batch_size": 1001},
        {"flush_ms": 60_001},
        {"filter.conditions": "x"},
    ],
)
def test_malformed_wishes_are_refused(streams, params):
    answer = streams.people["eng@acme"].http.get(STREAM.format("acme"), params=params)
    assert refused(answer)["code"] == "INVALID_ARGUMENT", answer.text


def test_deep_and_wide_filters_are_refused(streams):
    eng = streams.people["eng@acme"]
    condition = {"path": "payload.n", "operator": "FILTER_OPERATOR_EXISTS"}
    deep: dict[str, object] = {"conditions": [condition]}
    for _ in range(10):
        deep = {"all_of": [deep]}
    wide = {"all_of": [{"conditions": [condition] * 60}, {"conditions": [condition] * 60}]}
    for filter_ in (deep, wide, {"conditions": [condition | {"path": "a" * 600}]}):
        answer = eng.post(STREAM.format("acme"), {"filter": filter_})
        assert refused(answer)["code"] == "INVALID_ARGUMENT", answer.text
    unknown = eng.http.get(STREAM.format("acme"), params={"from_event_id": "0123456789abcdef.1"})
    assert refused(unknown)["code"] == "NOT_FOUND", unknown.text
