"""What holds the key-encryption key: a plugin by name, from the entry points `loomos.keys`.

1. There is no default key. A provider without a key refuses to open; it never makes one up.
2. A key-encryption key has an id, which stands beside what it wrapped; older ones unwrap for as
   long as the provider has them.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from loom.log.keystore import Unusable

__all__ = ["GROUP", "Provider", "named"]

GROUP = "loomos.keys"


class Provider(Protocol):
    """Wraps data keys; every call raises Unusable where the key cannot be had."""

    @property
    def current(self) -> str:
        """The id of the key that wraps now."""
        ...

    def wrap(self, secret: bytes) -> tuple[str, bytes]:
        """The id of the key that wrapped, and the wrapped secret."""
        ...

    def unwrap(self, kek_id: str, wrapped: bytes) -> bytes:
        """The secret again."""
        ...

    def rewrap(self, kek_id: str, wrapped: bytes) -> tuple[str, bytes]:
        """The same secret under the key that wraps now."""
        ...

    def renew(self) -> str:
        """Make a new key that wraps from now on, where this provider makes keys; gives its id."""
        ...


def named(name: str, environ: Mapping[str, str], folder: Path) -> Provider:
    """The provider of this name; its module's `open` gets the settings and the keys' folder."""
    found = entry_points(group=GROUP, name=name)
    if not found:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        raise Unusable(f"LOOMOS_KEY_PROVIDER is {name!r}: want one of {known}")
    (plugin, *_) = found
    return plugin.load().open(environ, folder)
