"""Key-encryption keys in files of their own: `<keys>/kek/<id>.key`, 32 bytes, mode 0600.

1. The newest by name wraps; all of them unwrap. `found` makes the first one and is called when a
   platform is set up, never when a service starts: a service that finds none refuses.
2. A file that others may read is refused: its key is no secret any more.
"""

import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from loom.log.keystore import Unusable, make_folder, write

__all__ = ["Files", "found", "open"]

NONCE_BYTES = 12
KEY_BYTES = 32


def open(environ: Mapping[str, str], folder: Path) -> "Files":
    """The keys in the folder, or in LOOMOS_KEK_FOLDER; raises Unusable where there is none."""
    given = environ.get("LOOMOS_KEK_FOLDER", "")
    return Files(Path(given) if given else folder / "kek")


def found(folder: Path) -> None:
    """Make the first key of a folder that has none."""
    make_folder(folder)
    if not any(folder.glob("*.key")):
        make(folder, 1)


class Files:
    """The key-encryption keys of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        _ = self.current

    @property
    def current(self) -> str:
        """The newest key's id."""
        names = sorted(path.name for path in self.folder.glob("*.key"))
        if not names:
            raise Unusable(
                f"{self.folder} has no key-encryption key: `loomos up` makes the first one; after "
                "a loss restore the folder from its backup"
            )
        return names[-1].removesuffix(".key")

    def wrap(self, secret: bytes) -> tuple[str, bytes]:
        """Wrap under the newest key."""
        kek_id = self.current
        return kek_id, wrap(self._key(kek_id), kek_id, secret)

    def unwrap(self, kek_id: str, wrapped: bytes) -> bytes:
        """Unwrap with the key that wrapped."""
        return unwrap(self._key(kek_id), kek_id, wrapped)

    def rewrap(self, kek_id: str, wrapped: bytes) -> tuple[str, bytes]:
        """Unwrap with the old key, wrap with the newest."""
        return self.wrap(self.unwrap(kek_id, wrapped))

    def renew(self) -> str:
        """Make the next key."""
        return make(self.folder, int(self.current.removeprefix("kek-")) + 1)

    def _key(self, kek_id: str) -> bytes:
        path = self.folder / f"{kek_id}.key"
        if "/" in kek_id or not path.exists():
            raise Unusable(f"key-encryption key {kek_id!r} is not in {self.folder}: restore it")
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise Unusable(
                f"{path} may be read by others: make a new key, re-wrap, remove this one"
            )
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise Unusable(f"{path} has {len(key)} bytes, want {KEY_BYTES}: restore it")
        return key


def make(folder: Path, number: int) -> str:
    """Write a fresh key; gives its id."""
    kek_id = f"kek-{number:06d}"
    write(folder / f"{kek_id}.key", secrets.token_bytes(KEY_BYTES))
    return kek_id


def wrap(key: bytes, kek_id: str, secret: bytes) -> bytes:
    """The secret under AES-256-GCM, bound to the key's id."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, secret, kek_id.encode())


def unwrap(key: bytes, kek_id: str, wrapped: bytes) -> bytes:
    """The secret that `wrap` hid."""
    try:
        return AESGCM(key).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], kek_id.encode())
    except (InvalidTag, ValueError) as error:
        raise Unusable(f"key-encryption key {kek_id!r} does not open what it wrapped") from error
