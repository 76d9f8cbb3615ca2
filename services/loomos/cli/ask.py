"""Asks the gateway on behalf of whoever holds the API key.

1. The key comes from LOOMOS_API_KEY only: it never stands on a command line, where others see it.
2. The gateway is trusted by the platform's own certificate authority, never by default.
"""

import os
import ssl
from typing import Any

from loom.decider import shard_of
from loom.kit.config import Settings, supervised

__all__ = ["Unanswered", "ask"]

TIMEOUT_S = 30.0


class Unanswered(Exception):
    """The gateway gave no answer that can be shown; the message says why and what to do."""


def ask(family: str, path: str, organisation: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The answer to GET /api/v1/organisations/<organisation>/<family>/<path>."""
    import httpx

    settings = Settings.load("cli")
    key = os.environ.get("LOOMOS_API_KEY", "")
    if not key:
        raise Unanswered("LOOMOS_API_KEY is not set: it must hold your API key")
    organisation = organisation or organisation_of(key)
    state = supervised(settings.home)
    gateway, authority = state.get("gateway", ""), state.get("ca", "")
    if not gateway or not authority:
        raise Unanswered(f"no gateway runs in {settings.home}: start it with `loomos up`")
    url = f"{gateway}/api/v1/organisations/{organisation}/{family}/{path}"
    try:
        with httpx.Client(
            verify=ssl.create_default_context(cafile=authority), timeout=TIMEOUT_S, trust_env=False
        ) as client:
            response = client.get(url, params=parameters, headers={"X-API-Key": key})
    except (httpx.HTTPError, OSError) as error:
        raise Unanswered(f"the gateway at {gateway} does not answer: {error}") from error
    try:
        content = response.json()
    except ValueError as error:
        raise Unanswered(f"{url} answered {response.status_code} without JSON") from error
    if response.status_code != httpx.codes.OK:
        raise Unanswered(f"refused ({response.status_code}): {content.get('detail', content)}")
    return content


def organisation_of(key: str) -> str:
    """The organisation that the key's id names."""
    key_id = key.split("_")[1] if key.count("_") >= 2 else ""
    organisation = shard_of(key_id)
    if not organisation:
        raise Unanswered("LOOMOS_API_KEY names no organisation: give it with --organisation")
    return organisation
