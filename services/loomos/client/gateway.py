"""The gateway's REST door as a synchronous client: the Python client's and the command line's.

1. A secret comes from who opens the door, from LOOMOS_API_KEY or from a profile file of mode 0600,
   never from a command line.
2. The gateway is trusted by the authority that is named, never by default.
3. Each command has an id: when the outcome is unknown, it is asked again under the same one.
4. Who wrote reads it: the position of the last command of a service goes along with each query of
   that service, and of LoomDB, which hears of all; in this process and, for a minute, in the
   profile's next one.
"""

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import httpx

from loom.decider import shard_of
from loom.kit.config import Settings
from loomos.client.addresses import located, secured, service_at, trust
from loomos.client.answers import content_of, refused_by, refused_in
from loomos.client.profile import Profile, Refused, only

__all__ = ["Door"]

TRAVELLING = "TRAVELLING"
FOLLOWS_ALL = "loomdb"
TIMEOUT_S = 35.0
AGAIN_WITHIN_S = 30.0
AGAIN_AFTER_S = (0.2, 0.5, 1.0, 2.0, 4.0)
OUTCOME_UNKNOWN = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
STARTS = ("start", "cursor", "from_us", "from_event_id")
KEY = re.compile(r"lk_(key-[a-z0-9-]{1,32}-[a-z2-7]{20})_[A-Za-z0-9_-]{20,128}")
PROGRESS = logging.getLogger("loomos.client")
"""Says how far long answers are."""


class Door:
    """Calls the gateway in one identity's name, or in nobody's."""

    def __init__(
        self,
        gateway: str,
        ca: Path,
        *,
        key: str = "",
        bearer: str = "",
        profile: Profile | None = None,
        as_of: str = "",
    ) -> None:
        """With `as_of` all that is asked through it is answered as of that moment."""
        self.gateway = secured(gateway)
        self.ca = ca
        self.key = key
        self.profile = profile
        self.as_of = as_of
        self.written = profile.positions() if profile else {}
        headers = {"X-API-Key": key} if key else {}
        if bearer:
            headers = {"Authorization": f"Bearer {bearer}"}
        self.client = httpx.Client(
            base_url=self.gateway,
            verify=trust(ca),
            timeout=TIMEOUT_S,
            trust_env=False,
            headers=headers,
        )

    @classmethod
    def open(
        cls, profile: str = "", environ: Mapping[str, str] = os.environ, as_of: str = ""
    ) -> Self:
        """The door with the credentials that LOOMOS_API_KEY, a profile or LOOMOS_PROFILE give."""
        home = Settings.load("cli", environ).home
        name = profile or environ.get("LOOMOS_PROFILE", "")
        if not name and (key := environ.get("LOOMOS_API_KEY", "")):
            return cls(*located(home, environ), key=key, as_of=as_of)
        chosen = Profile.named(home, name) if name else only(home)
        return cls(*located(home, environ), key=chosen.key(), profile=chosen, as_of=as_of)

    @classmethod
    def nobody(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """The door without credentials, for enrolment and login."""
        return cls(*located(Settings.load("cli", environ).home, environ))

    def bearing(self, token: str) -> "Door":
        """The same gateway in the name of a short token."""
        other = Door(self.gateway, self.ca, bearer=token)
        other.written = self.written
        return other

    @property
    def organisation_id(self) -> str:
        """The organisation of the API key's owner; "" for a bearer token."""
        form = KEY.fullmatch(self.key)
        return shard_of(form.group(1)) if form else ""

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str = "",
        reads: bool = False,
    ) -> dict[str, Any]:
        """The answer's JSON object; raises Refused. `reads` says that a POST asks and changes
        nothing but the trail of who asked: it sees what this identity wrote, as a GET does."""
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        if method == "GET" and self.as_of:
            # Some reads leave a record, which asking again must not leave again.
            params = {**(params or {}), "as_of": self.as_of}
        elif method == "GET":
            headers = self.after(path)
        elif reads:
            headers |= self.after(path)
        give_up = time.monotonic() + AGAIN_WITHIN_S
        pauses = iter(AGAIN_AFTER_S)
        told = ""
        while True:
            try:
                response = self.send(method, path, body, params, headers)
                self.note(response)
                return content_of(response)
            except Refused as refused:
                pause = next(pauses, AGAIN_AFTER_S[-1])
                if refused.reason == TRAVELLING and refused.detail != told:
                    told = refused.detail
                    PROGRESS.info("%s", told)
                    give_up, pause = time.monotonic() + AGAIN_WITHIN_S, AGAIN_AFTER_S[0]
                if refused.code not in OUTCOME_UNKNOWN or time.monotonic() + pause > give_up:
                    raise
                time.sleep(pause)

    def pages(
        self, path: str, name: str, params: Mapping[str, Any], limit: int = 0
    ) -> Iterator[dict[str, Any]]:
        """Everything that a paged query lists under a name, or the first `limit` of it."""
        asked = {key: value for key, value in params.items() if value}
        count = 0
        while True:
            page = self.call("GET", path, params=asked)
            for one in page.get(name, []):
                yield one
                count += 1
                if count == limit:
                    return
            if not page.get("next_cursor"):
                return
            asked["cursor"] = page["next_cursor"]

    def stream(
        self, path: str, params: Mapping[str, Any] | None = None
    ) -> Iterator[dict[str, Any]]:
        """The messages of an endless stream; after a break it goes on behind the last cursor."""
        asked, breaks = dict(params or {}), 0
        while True:
            try:
                for message in self.lines(path, asked):
                    breaks = 0
                    if cursor := message.get("cursor"):
                        asked = {name: asked[name] for name in asked if name not in STARTS}
                        asked["cursor"] = cursor
                    yield message
            except Refused as refused:
                if refused.code != "UNAVAILABLE" or breaks == len(AGAIN_AFTER_S):
                    raise
                breaks += 1
            time.sleep(AGAIN_AFTER_S[max(0, breaks - 1)])

    def lines(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Each message of a streaming answer as it comes; raises Refused."""
        headers = {"Accept": "application/x-ndjson"} | self.after(path)
        try:
            with self.client.stream(
                "GET",
                path,
                params=params,
                headers=headers,
                timeout=httpx.Timeout(TIMEOUT_S, read=None),
            ) as response:
                if response.is_error:
                    response.read()
                    raise refused_in(response)
                for line in filter(None, response.iter_lines()):
                    message = json.loads(line)
                    if set(message) == {"error"}:
                        raise refused_by(message["error"], response.status_code)
                    yield message
        except (httpx.HTTPError, OSError) as error:
            raise self.silent(error) from error

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str],
    ) -> httpx.Response:
        """One attempt."""
        try:
            response = self.client.request(
                method, path, json=body, params=params, headers=dict(headers)
            )
        except (httpx.HTTPError, OSError) as error:
            raise self.silent(error) from error
        if response.is_error:
            raise refused_in(response)
        return response

    def silent(self, error: Exception) -> Refused:
        """What to say where the gateway does not answer."""
        told = f"the gateway {self.gateway} does not answer ({error}): is the platform up?"
        return Refused(0, "UNAVAILABLE", told)

    def note(self, response: httpx.Response) -> None:
        """Remember where a command's record stands."""
        for position in filter(None, response.headers.get("x-loomos-position", "").split(",")):
            topic, partition, rest = position.split(":", 2)
            self.written[f"{topic}:{partition}"] = rest
            if self.profile:
                self.profile.remember(self.written)

    def after(self, path: str) -> dict[str, str]:
        """The header that makes a query wait for what this identity wrote and its service hears."""
        if not self.written:
            return {}
        service = service_at(path)
        topic = "" if service == FOLLOWS_ALL else f"loomos.{service}:"
        seen = [f"{at}:{rest}" for at, rest in self.written.items() if at.startswith(topic)]
        return {"X-Loomos-After": ",".join(seen)} if seen else {}

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
