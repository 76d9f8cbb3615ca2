"""The one-time token by which whoever started the platform becomes its first administrator.

1. Security gets the token's SHA-256 and its end; the token itself lies in a file of mode 0600 that
   goes when it was used.
2. Every start makes a fresh token, until security has noted that one was used.
"""

import hashlib
import json
import secrets
import time

from loom.kit.authority import write_secret
from loomos.embedded.home import Home

__all__ = ["mint"]

LIFE_SECONDS = 24 * 3600


def mint(home: Home) -> str:
    """A fresh enrolment token, "" once an administrator has enrolled."""
    folder = home.credentials / "security"
    path = folder / "enrolment.json"
    try:
        used = json.loads(path.read_bytes()).get("used", False)
    except FileNotFoundError:
        used = False
    if used:
        return ""
    token = f"le_{secrets.token_urlsafe(32)}"
    digest = hashlib.sha256(token.encode()).hexdigest()
    expires_at_us = time.time_ns() // 1000 + LIFE_SECONDS * 1_000_000
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secret(path, json.dumps({"sha256": digest, "expires_at_us": expires_at_us}))
    write_secret(home.path / "enrolment.token", token + "\n")
    return token
