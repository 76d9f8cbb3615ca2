"""Key-encryption keys from the environment: LOOMOS_KEK=`id:base64[,id:base64…]`, newest first.

For orchestrators that hand secrets over as variables. The service never writes them anywhere.
"""

import base64
import re
from collections.abc import Mapping
from pathlib import Path

from loom.log.keystore import Unusable
from loom.log.providers.file import KEY_BYTES, unwrap, wrap

__all__ = ["Given", "open"]

ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
WANTED = "want id:base64 of 32 bytes, several joined by commas, newest first"


def open(environ: Mapping[str, str], folder: Path) -> "Given":
    """The keys of LOOMOS_KEK; raises Unusable without saying the value."""
    keys: dict[str, bytes] = {}
    for part in filter(None, environ.get("LOOMOS_KEK", "").split(",")):
        kek_id, _, text = part.strip().partition(":")
        try:
            key = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise Unusable(f"LOOMOS_KEK: {WANTED}") from error
        if not ID.fullmatch(kek_id) or len(key) != KEY_BYTES or len(set(key)) < 8:
            raise Unusable(f"LOOMOS_KEK: {WANTED}, of random bytes")
        keys[kek_id] = key
    if not keys:
        raise Unusable(f"LOOMOS_KEK is missing: {WANTED}")
    return Given(keys)


class Given:
    """The keys that the environment gave."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = keys

    @property
    def current(self) -> str:
        """The first one's id."""
        return next(iter(self._keys))

    def wrap(self, secret: bytes) -> tuple[str, bytes]:
        """Wrap under the first key."""
        return self.current, wrap(self._keys[self.current], self.current, secret)

    def unwrap(self, kek_id: str, wrapped: bytes) -> bytes:
        """Unwrap with the key that wrapped."""
        if kek_id not in self._keys:
            raise Unusable(f"LOOMOS_KEK lacks {kek_id!r}: add it behind the newest")
        return unwrap(self._keys[kek_id], kek_id, wrapped)

    def rewrap(self, kek_id: str, wrapped: bytes) -> tuple[str, bytes]:
        """Unwrap with the old key, wrap with the first."""
        return self.wrap(self.unwrap(kek_id, wrapped))

    def renew(self) -> str:
        """Refused: who sets the variable makes the key."""
        raise Unusable("put a new key before the others in LOOMOS_KEK and restart, then re-wrap")
