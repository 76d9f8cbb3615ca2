"""Durable subscriptions and feeds as processes serve them: at least once, in order, over kills."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from tests.streaming import Streams, event, numbered, refused, shown, until

from loomos.embedded.feeds import Feeds, feeds_wanted
from loomos.embedded.postgres import psql

# Starting five processes on a busy machine is no part of a test's time.
pytestmark = pytest.mark.timeout(120, func_only=True)
OWN = "/api/v1/organisations/acme"
LIST = f"{OWN}/subscriptions"
KIND = "test.sample.taken"


@pytest.fixture(scope="module")
def streams(module_platform) -> Iterator[Streams]:
    found = Streams(module_platform)
    try:
        found.up()
        schema = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}})
        path = f"{OWN}/schemas/{KIND}/versions"
        boss = found.people["boss@acme"]
        found.command(boss, path, version="1.0.0", schema_json=schema)
        yield found
    finally:
        found.down()


class Consumer:
    """A consumer that takes deliveries and settles them, over breaks of the line."""

    all: ClassVar[list["Consumer"]] = []

    def __init__(self, streams: Streams, subscription_id: str, verdict=lambda one: True) -> None:
        self.here = threading.Event()
        """Set once it is among the subscription's consumers."""
        self.taken: list[dict] = []
        self.done: list[str] = []
        self.path = f"{OWN}/subscriptions/{subscription_id}"
        self._http = streams.http({"Authorization": f"Bearer {streams.people['eng@acme'].token}"})
        self._verdict = verdict
        self._line: socket.socket | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.all.append(self)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._consume()
            except httpx.HTTPError:
                self._stopping.wait(0.1)

    def _consume(self) -> None:
        params = {"batch_size": 5, "unsettled_max": 10}
        with self._http.stream("GET", f"{self.path}/deliveries", params=params) as answer:
            self._line = answer.extensions["network_stream"].get_extra_info("socket")
            if self._stopping.is_set():
                return
            for line in answer.iter_lines() if answer.is_success else ():
                if "error" not in json.loads(line):
                    self.here.set()
                for one in json.loads(line).get("deliveries", ()):
                    if self._stopping.is_set():
                        return
                    self.taken.append(one)
                    self.settle(one)
        self._stopping.wait(0.1)

    def settle(self, one: dict) -> None:
        """Say what became of a delivery; None says nothing."""
        verdict = self._verdict(one)
        if verdict is None:
            return
        body = {"done" if verdict else "failed": [one["delivery_id"]]}
        heard = False
        while not self._stopping.is_set():
            answer = self._http.post(f"{self.path}/settle", json=body)
            # A refusal may stand in the status or, where it came late, in the first line.
            told = json.loads(answer.text.splitlines()[0])
            if told.get("error", told).get("code") != "UNAVAILABLE":
                break
            # It may have counted, and only its answer died with loomdb: then it never comes again.
            heard = True
            self._stopping.wait(0.1)
        else:
            return
        if verdict and (told.get("settled") or heard):
            self.done.append(one["event"]["payload"]["event_id"])

    def leave(self) -> None:
        """Vanish with whatever was not settled."""
        self._stopping.set()
        if self._line is not None:
            # Shut, not closed: the number of a closed socket goes to the next connection, from
            # which the thread that still reads would steal.
            with (
                contextlib.suppress(OSError),
                socket.socket(fileno=os.dup(self._line.fileno())) as twin,
            ):
                twin.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._http.close()


@pytest.fixture(autouse=True)
def nobody_stays():
    """Every consumer of a test ends with it, also where the test fails."""
    yield
    while Consumer.all:
        Consumer.all.pop().leave()


def made(streams: Streams, name: str, **more: object) -> str:
    """A new subscription from the beginning, known to the tables."""
    body = {"name": name, "selection": {"types": ["test."]}, "ack_deadline_ms": 60_000} | more
    return known(streams, streams.command(streams.people["eng@acme"], LIST, **body)["id"])


def known(streams: Streams, own: str) -> str:
    """The subscription, once the tables know it."""
    boss = streams.people["boss@acme"]
    until(lambda: boss.http.get(f"{LIST}/{own}").status_code == 200)
    return own


def test_nothing_is_lost_when_loomdb_and_a_consumer_are_killed_in_mid_delivery(streams):
    eng = streams.people["eng@acme"]
    own = made(streams, "killed")
    expected = streams.append(eng, "acme", list(numbered("k", 120, streams=6)))
    # The first takes deliveries, settles a few of them and vanishes.
    given: list[dict] = []

    def few(one: dict) -> bool | None:
        given.append(one)
        return True if len(given) <= 3 else None

    lost = Consumer(streams, own, few)
    until(lambda: len(lost.taken) >= 5)
    lost.leave()
    workers = [Consumer(streams, own) for _ in range(2)]
    until(lambda: sum(len(worker.done) for worker in workers) > 10)
    streams.restart("loomdb")
    expected += streams.append(eng, "acme", list(numbered("l", 60, streams=6)))
    until(lambda: {*lost.done, *workers[0].done, *workers[1].done} == set(expected), 60)
    for worker in workers:
        worker.leave()
    # Once all is settled, nothing comes again to who comes later.
    late = Consumer(streams, own)
    streams.append(eng, "acme", [event("last", {"n": 0})])
    until(lambda: "last" in late.done)
    assert {one["event"]["payload"]["event_id"] for one in late.taken} <= {"last", *expected}


def test_streams_keep_their_order_among_competing_consumers(streams):
    eng = streams.people["eng@acme"]
    own = made(
        streams,
        "ordered",
        selection={"types": ["test."], "where": ["stream prefix acme/o-"]},
    )
    seen: list[tuple[str, int]] = []
    hands: set[int] = set()
    lock, several = threading.Lock(), threading.Event()

    def note(one: dict) -> bool:
        with lock:
            seen.append((one["event"]["stream"], one["event"]["payload"]["payload"]["n"]))
            hands.add(threading.get_ident())
        if len(hands) > 1:
            several.set()
        # Nobody may hold more than ten, of fifteen streams: the others are there to be taken.
        assert several.wait(60), "all went to one consumer"
        return True

    workers = [Consumer(streams, own, note) for _ in range(3)]
    until(lambda: all(worker.here.is_set() for worker in workers))
    streams.append(eng, "acme", list(numbered("o", 150, streams=15)))
    until(lambda: len(set(seen)) >= 150)
    assert len(seen) == 150, "no line broke and nothing was late, so nothing came twice"
    for stream in {name for name, _ in seen}:
        own_numbers = [n for name, n in seen if name == stream]
        assert own_numbers == sorted(own_numbers)


def test_what_no_consumer_can_take_is_a_dead_letter_that_can_be_replayed(streams):
    eng = streams.people["eng@acme"]
    own = made(
        streams,
        "poisoned",
        selection={"types": ["test."], "where": ["stream prefix acme/p"]},
        deliveries_max=2,
    )
    mended = threading.Event()
    worker = Consumer(
        streams, own, lambda one: mended.is_set() or one["event"]["payload"]["payload"]["n"] != 1
    )
    streams.append(eng, "acme", list(numbered("p", 4)))
    until(lambda: set(worker.done) == {"p-0", "p-2", "p-3"})
    path = f"{OWN}/subscriptions/{own}"
    letters = until(lambda: eng.http.get(f"{path}/dead").json()["letters"])
    (letter,) = letters
    assert (letter["number"], letter["attempts"], letter["reason"]) == ("1", 2, "failed")
    assert eng.http.get(path).json()["dead"] == 1
    mended.set()
    streams.command(eng, f"{path}/replay", numbers=[1])
    until(lambda: "p-1" in worker.done)
    until(lambda: not eng.http.get(f"{path}/dead").json()["letters"])
    assert eng.post(f"{path}/replay", {"numbers": [7]}).status_code == 404


def test_what_nobody_settles_is_late_and_then_dead(streams):
    eng = streams.people["eng@acme"]
    own = made(
        streams,
        "silent",
        selection={"types": ["test."], "where": ["stream prefix acme/silent"]},
        ack_deadline_ms=200,
        deliveries_max=2,
    )
    worker = Consumer(streams, own, lambda one: None)
    streams.append(eng, "acme", list(numbered("silent", 1)))
    (letter,) = until(lambda: eng.http.get(f"{LIST}/{own}/dead").json()["letters"])
    assert (letter["attempts"], letter["reason"]) == (2, "late")
    until(lambda: [int(one["attempt"]) for one in worker.taken] == [1, 2])


def test_the_count_of_deliveries_survives_the_death_of_loomdb(streams):
    eng = streams.people["eng@acme"]
    own = made(
        streams,
        "counted",
        selection={"types": ["test."], "where": ["stream prefix acme/c-"]},
        deliveries_max=3,
    )
    fails_up_to = [1]
    judged: list[int] = []

    def verdict(one: dict) -> bool | None:
        attempt = int(one["attempt"])
        said = False if attempt <= fails_up_to[0] else None
        judged.append(attempt)
        return said

    worker = Consumer(streams, own, verdict)
    streams.append(eng, "acme", list(numbered("c", 1)))
    for attempt in (1, 2):
        # The next delivery is under way when loomdb dies: it has not failed, so it comes again.
        until(lambda n=attempt: judged[-1:] == [n + 1])
        until(lambda n=attempt: f":{n}:failed" in stored_progress(streams, own))
        # Before the death: it may come again before the restart is known to be done.
        fails_up_to[0] = attempt + 1
        streams.restart("loomdb")
    path = f"{OWN}/subscriptions/{own}"
    (letter,) = until(lambda: eng.http.get(f"{path}/dead").json()["letters"])
    assert (letter["attempts"], letter["reason"]) == (3, "failed")
    assert [int(one["attempt"]) for one in worker.taken] == [1, 2, 2, 3, 3]
    until(lambda: ";" not in stored_progress(streams, own))


def stored_progress(streams: Streams, own: str) -> str:
    """What the database holds of a subscription's consumers."""
    query = f"SELECT base FROM loomdb.positions WHERE projection = 'stream:{own}'"
    return psql(streams.platform.admin_dsn, query)


def test_a_subscription_of_others_is_unknown(streams):
    own = made(streams, "private")
    stranger = streams.people["eng@other"]
    unknown = "subscription-acme-" + "a" * 20
    for whose in ("acme", "other"):
        for name in (own, unknown):
            path = f"/api/v1/organisations/{whose}/subscriptions/{name}"
            for rest in ("", "/dead", "/deliveries"):
                answer = stranger.http.get(f"{path}{rest}")
                told = refused(answer)
                assert told["code"] == "NOT_FOUND", (path, rest, answer.text)
                assert told["detail"] == f"no subscription {name!r}"
            answer = stranger.post(f"{path}/settle", {"done": ["a.1.1"]})
            assert refused(answer)["code"] == "NOT_FOUND", answer.text
    found = stranger.http.get(f"{OWN}/subscriptions").json()
    assert found["subscriptions"] == []
    boss = streams.people["boss@acme"]
    made_by_boss = known(streams, streams.command(boss, LIST, name="bosses")["id"])
    answer = streams.people["eng@acme"].http.get(f"{LIST}/{made_by_boss}/deliveries")
    assert refused(answer)["code"] == "PERMISSION_DENIED", "he may not see all that it delivers"


def test_what_is_sealed_is_plain_for_who_may_in_each_form_of_a_stream(streams):
    boss, eng = streams.people["boss@acme"], streams.people["eng@acme"]
    told = event("sealed-1", {"mail": "ada@example.org"}, "sealed", type=KIND)
    streams.append(eng, "acme", [told | {"data_subject": "ada", "personal_paths": ["/mail"]}])
    shown(eng, f"{OWN}/event-stream", "sealed-1")
    params = {
        "types": KIND,
        "where": "stream prefix acme/sealed",
        "start": "STREAM_START_BEGINNING",
        "until_live": "true",
    }
    for form in ("application/x-ndjson", "text/event-stream"):
        for person, seen in ((boss, "ada@example.org"), (eng, "[sealed]")):
            path, headers = f"{OWN}/event-stream", {"accept": form}
            answer = person.http.get(path, params=params, headers=headers)
            assert seen in answer.text and "sealed:1:" not in answer.text, (form, answer.text)
            assert person is boss or "ada@" not in answer.text


def test_unknown_deliveries_are_named(streams):
    own = made(streams, "settling")
    eng = streams.people["eng@acme"]
    answer = eng.post(f"{OWN}/subscriptions/{own}/settle", {"done": ["deadbeef.1.2"]})
    assert json.loads(answer.text) == {"settled": 0, "unknown": ["deadbeef.1.2"]}
    answer = eng.post(f"{OWN}/subscriptions/{own}/settle", {"done": ["A;B"]})
    assert refused(answer)["code"] == "INVALID_ARGUMENT", answer.text


@pytest.mark.slow
def test_a_feed_is_read_by_clients_that_are_not_ours_and_nothing_else_is(streams):
    boss, eng = streams.people["boss@acme"], streams.people["eng@acme"]
    secret = event("feed-secret", {"n": 9}, security={"data_classification": "restricted"})
    streams.append(eng, "acme", [*numbered("feed", 3), secret])
    place = {"action": "UPCAST_ACTION_DEFAULT", "path": "place", "value_json": '"lab"'}
    newer = {"type": "object", "properties": {"n": {"type": "integer"}, "place": {}}}
    told = {"schema_json": json.dumps(newer), "compatibility": "COMPATIBILITY_NONE"}
    path = f"{OWN}/schemas/{KIND}/versions"
    streams.command(boss, path, version="2.0.0", upcast=[place], **told)
    streams.command(boss, f"{OWN}/feed/enable", from_beginning=True, upcast=True)
    assert eng.post(f"{OWN}/feed/enable", {}).status_code == 403
    platform = streams.platform
    until(lambda: feeds_wanted(platform.home) == ["acme"])
    keeper = Feeds(platform.home, platform.authority, tuple(platform_users(platform)))
    broker = platform.stores.broker
    asyncio.run(keeper.keep(platform.administrator, broker.ssl_bootstrap))
    listed = boss.http.get(f"{OWN}/feeds").json()["feeds"]
    assert [one["topic"] for one in listed] == ["loomos.feed.acme"]
    folder = platform.home.path / "feeds" / "acme"
    expected = ["feed-0", "feed-1", "feed-2"]
    read = outsider(folder, "readers", "60")
    own = {one["attributes"].get("eventid"): one for one in read}
    assert [name for name in own if name in (*expected, "feed-secret")] == expected
    told = own["feed-1"]
    assert told["data"] == {"n": 1, "place": "lab"}, "as the newest version has it"
    assert told["attributes"]["type"] == KIND
    assert told["attributes"]["origintopic"] == "loomos.data"
    assert told["attributes"]["dataschema"] == f"urn:loomos:{KIND}:2.0.0"
    ids = [one["attributes"]["id"] for one in read]
    assert len(ids) == len(set(ids))
    assert any(one["attributes"]["type"] == "feed.enabled" for one in read)
    assert not any(one["attributes"]["type"] == "audit.trail.read" for one in read)
    for topic in ("loomos.scheduler", "loomos.data", "loomos.feed.other"):
        assert outsider(folder, "", "0", topic) == [{"refused": "TOPIC_AUTHORIZATION_FAILED"}]
    streams.command(boss, f"{OWN}/feed/disable")
    until(lambda: feeds_wanted(platform.home) == [])
    asyncio.run(keeper.keep(platform.administrator, broker.ssl_bootstrap))
    refused = outsider(folder, "", "0", "loomos.feed.acme")
    assert refused == [{"refused": "TOPIC_AUTHORIZATION_FAILED"}]


def platform_users(platform) -> list[str]:
    """The services that stand in the rules of Kafka."""
    return sorted(path.parent.name for path in platform.home.credentials.glob("*/kafka.user"))


def outsider(folder: Path, *words: str) -> list[dict]:
    """What a program without any of our code reads, in an environment of its own."""
    uv = shutil.which("uv")
    assert uv is not None, "the outsider's environment is made by uv"
    command = [uv, "run", "-q", "--isolated", "--no-project", "--python", "3.11"]
    for name in ("kafka-python", "confluent-kafka", "cloudevents"):
        command += ["--with", name]
    script = Path(__file__).with_name("outsider.py")
    result = subprocess.run(
        [*command, "python", str(script), str(folder), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ,
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]
