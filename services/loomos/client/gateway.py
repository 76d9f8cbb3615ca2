"""How the client reaches the gateway: TLS, the key, retries under the same id, refusals.

Who wrote reads it: positions of what was appended go along with each question.
"""

import json
import re
import ssl
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from loom.decider import shard_of
from loom.kit.config import Settings, supervised

__all__ = ["Gateway", "Refused", "located", "organisation_of"]

TIMEOUT_S = 35.0
AGAIN_WITHIN_S = 30.0
AGAIN_AFTER_S = (0.2, 0.5, 1.0, 2.0, 4.0)
OUTCOME_UNKNOWN = ("UNAVAILABLE", "DEADLINE_EXCEEDED")
KEY = re.compile(r"lk_(key-[a-z0-9-]{1,32}-[a-z2-7]{20})_[A-Za-z0-9_-]{20,128}")


class Refused(Exception):
    """A call that did not succeed."""

    def __init__(self, code: str, message: str, field: str = "", correlation_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        """gRPC status name, e.g. `ALREADY_EXISTS`."""
        self.field = field
        """The field to blame, e.g. `events[3].payload.epoch`."""
        self.correlation_id = correlation_id


class Gateway:
    """The gateway's REST door in one identity's name."""

    def __init__(self, address: str, api_key: str, ca: Path) -> None:
        if not address.startswith("https://"):
            raise Refused("INVALID_ARGUMENT", f"the gateway is {address!r}: want https://…")
        try:
            trust = ssl.create_default_context(cafile=str(ca))
        except OSError as error:
            told = f"{ca} is no certificate authority ({error})"
            raise Refused("INVALID_ARGUMENT", told) from error
        self.written: dict[str, str] = {}
        """What this client wrote last, by topic and partition: its questions wait for it."""
        self.http = httpx.Client(
            base_url=address.rstrip("/"),
            verify=trust,
            timeout=TIMEOUT_S,
            trust_env=False,
            headers={"X-API-Key": api_key},
        )

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The answer's JSON; asked again under the same id while the outcome is unknown."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        if method == "GET":
            seen = ",".join(f"{place}:{rest}" for place, rest in sorted(self.written.items()))
            headers = {"X-Loomos-After": seen} if seen else {}
        give_up = time.monotonic() + AGAIN_WITHIN_S
        pauses = iter(AGAIN_AFTER_S)
        while True:
            try:
                return self.once(method, path, body, params, headers)
            except Refused as refused:
                pause = next(pauses, AGAIN_AFTER_S[-1])
                if refused.code not in OUTCOME_UNKNOWN or time.monotonic() + pause > give_up:
                    raise
                time.sleep(pause)

    def once(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str],
    ) -> dict[str, Any]:
        """One attempt."""
        try:
            response = self.http.request(
                method, path, json=body, params=params, headers=dict(headers)
            )
        except httpx.HTTPError as error:
            raise Refused("UNAVAILABLE", f"the gateway does not answer: {error}") from error
        if response.is_error:
            raise refused_in(response)
        for position in filter(None, response.headers.get("x-loomos-position", "").split(",")):
            topic, partition, rest = position.split(":", 2)
            self.written[f"{topic}:{partition}"] = rest
        return response.json() if response.content else {}

    def lines(self, path: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Each message of a streaming answer as it comes."""
        timeout = httpx.Timeout(TIMEOUT_S, read=None)
        headers = {"Accept": "application/x-ndjson"}
        try:
            with self.http.stream(
                "GET", path, params=dict(params), headers=headers, timeout=timeout
            ) as response:
                if response.is_error:
                    response.read()
                    raise refused_in(response)
                for line in filter(None, response.iter_lines()):
                    message = json.loads(line)
                    if set(message) == {"error"}:
                        raise refused_by(message["error"])
                    yield message
        except httpx.HTTPError as error:
            raise Refused("UNAVAILABLE", f"the gateway does not answer: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        self.http.close()


def refused_in(response: httpx.Response) -> Refused:
    """The refusal that an answer is."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        return Refused("UNKNOWN", f"{response.url} answered {response.status_code}")
    return refused_by(problem)


def refused_by(problem: Mapping[str, Any]) -> Refused:
    """The refusal that a problem document tells."""
    return Refused(
        str(problem.get("code", "UNKNOWN")),
        str(problem.get("detail", "no reason given")),
        str(problem.get("field", "")),
        str(problem.get("correlation_id", "")),
    )


def organisation_of(api_key: str) -> str:
    """The organisation of an API key's owner; raises Refused for what is no key."""
    form = KEY.fullmatch(api_key)
    if form is None:
        raise Refused("UNAUTHENTICATED", "this is no API key: `loomos key create` makes one")
    return shard_of(form.group(1))


def located(profile: str, environ: Mapping[str, str]) -> tuple[str, Path, str]:
    """Gateway, authority and key, as the environment or this machine's home says."""
    home = Settings.load("client", environ).home
    state = supervised(home)
    gateway = environ.get("LOOMOS_GATEWAY") or state.get("gateway", "")
    ca = environ.get("LOOMOS_CA") or state.get("ca", "")
    if not gateway or not ca:
        told = f"no gateway runs in {home}: `loomos up`, or set LOOMOS_GATEWAY and LOOMOS_CA"
        raise Refused("UNAVAILABLE", told)
    name = profile or environ.get("LOOMOS_PROFILE", "")
    key = environ.get("LOOMOS_API_KEY", "")
    return gateway, Path(ca), key if key and not name else saved(home / "profiles", name)


def saved(folder: Path, name: str) -> str:
    """The key of a profile, the only one where none is named."""
    found = sorted(folder.glob("*.key")) if not name else [folder / Path(name).with_suffix(".key")]
    if len(found) != 1:
        names = ", ".join(one.stem for one in found) or "none"
        told = f"say which profile ({names}), or set LOOMOS_API_KEY"
        raise Refused("UNAUTHENTICATED", told)
    try:
        if stat.S_IMODE(found[0].stat().st_mode) & 0o077:
            raise Refused("UNAUTHENTICATED", f"{found[0]} can be read by others: chmod 600")
        return found[0].read_text().strip()
    except OSError as error:
        raise Refused("UNAUTHENTICATED", f"profile {name!r} cannot be read: {error}") from error
