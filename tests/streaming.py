"""LoomDB's streams as processes: security, data, loomdb and a gateway, with two organisations."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from tests.conftest import Platform
from tests.doors import PASSWORD, Doors, Person

__all__ = ["Collected", "Streams", "event", "numbered", "refused", "shown", "until"]

PATIENCE_SECONDS = 60.0


class Streams(Doors):
    """The doors that streams need, with an engineer and an administrator in each organisation."""

    services = ("security", "data", "loomdb")

    def __init__(self, platform: Platform) -> None:
        super().__init__(platform)
        self.people: dict[str, Person] = {}

    def found(self, organisation: str) -> None:
        """An organisation with its people."""
        self.command(self.root, "/api/v1/organisations", organisation_id=organisation)
        for name, role in (("eng", "ENGINEER"), ("boss", "ADMIN")):
            grant = {"role": f"USER_ROLE_{role}", "scope_id": organisation}
            told = {"user_name": name, "password": PASSWORD, "roles": [grant]}
            self.command(self.root, "/api/v1/users", organisation_id=organisation, **told)
            self.people[f"{name}@{organisation}"] = Person(self, organisation, name)

    def named(self) -> None:
        """Everybody is logged in already."""

    def command(self, person: Person, path: str, **body: Any) -> dict[str, Any]:
        """A command that succeeds."""
        answer = person.post(path, body)
        assert answer.is_success, answer.text
        return answer.json()

    def append(self, person: Person, organisation: str, events: list[dict[str, Any]]) -> list[str]:
        """Append events and give their ids back."""
        for begin in range(0, len(events), 200):
            path = f"/api/v1/organisations/{organisation}/events/batch"
            self.command(person, path, events=events[begin : begin + 200])
        return [event["event_id"] for event in events]

    def restart(self, name: str) -> None:
        """Kill a service and start it again."""
        process = self.by_name[name]
        process.kill()
        process.start()
        asyncio.run(process.healthy())


class Collected:
    """What a stream said so far, read by a thread of its own."""

    def __init__(self, person: Person, path: str, **params: Any) -> None:
        self.messages: list[dict[str, Any]] = []
        self.error: dict[str, Any] | None = None
        self.done = threading.Event()
        self._stop = threading.Event()
        self._person, self._path, self._params = person, path, params
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a subscription, without those of its deliveries' answers."""
        return [event for one in list(self.messages) for event in one.get("events", ())]

    @property
    def own_ids(self) -> list[str]:
        """The ids that users gave their events."""
        return [event["payload"]["event_id"] for event in self.events]

    def _read(self) -> None:
        try:
            headers = {"accept": "application/x-ndjson"}
            with self._person.http.stream(
                "GET", self._path, params=self._params, headers=headers, timeout=None
            ) as answer:
                if answer.is_error:
                    self.error = json.loads(answer.read())
                    return
                for line in answer.iter_lines():
                    message = json.loads(line)
                    if "error" in message:
                        self.error = message["error"]
                        return
                    self.messages.append(message)
                    if self._stop.is_set():
                        return
        except httpx.HTTPError as error:
            self.error = {"code": "BROKEN", "detail": str(error)}
        finally:
            self.done.set()

    def close(self) -> None:
        """Read no further."""
        self._stop.set()


def until(true: Callable[[], Any], seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until something holds; what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return found


def shown(person: Person, path: str, name: str) -> None:
    """Wait until streams show an event: an append is confirmed before they have read it."""
    params = {"types": "test.", "start": "STREAM_START_BEGINNING", "until_live": "true"}

    def there() -> bool:
        reader = Collected(person, path, **params)
        assert reader.done.wait(PATIENCE_SECONDS)
        return name in reader.own_ids

    until(there)


def refused(answer: httpx.Response) -> dict[str, Any]:
    """Why a stream was refused: the status says it or, where it came late, the last line."""
    told = json.loads(answer.text.splitlines()[-1])
    assert answer.is_error or "error" in told, answer.text
    return told.get("error", told)


def event(name: str, payload: dict[str, Any], stream: str = "", **more: Any) -> dict[str, Any]:
    """A user's event."""
    kind = more.pop("type", "test.sample.taken")
    return {"event_id": name, "type": kind, "stream": stream, "payload": payload} | more


def numbered(prefix: str, count: int, streams: int = 1) -> Iterator[dict[str, Any]]:
    """So many events, in turn in each of the streams."""
    for number in range(count):
        yield event(f"{prefix}-{number}", {"n": number}, f"{prefix}-{number % streams}")
