"""Seals a value under a data key so that only its own place in the log opens it (ADR 0016).

1. AES-256-GCM or ChaCha20-Poly1305, 96 random bits of nonce. The associated data bind format, key,
   organisation, subject, event and field: a sealed value that is moved anywhere else does not open.
2. The length is hidden in steps of 32 bytes: what is left after the key's death does not tell
   `yes` from `no`.
3. Digests of personal content are HMACs under a key derived from the subject's data key: without it
   a value of few possibilities cannot be tried out.
"""

import base64
import secrets
from enum import IntEnum
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = [
    "Algorithm",
    "DataKey",
    "Spot",
    "Unreadable",
    "digest_key",
    "new_secret",
    "seal",
    "unseal",
]

FORMAT = "sealed:1:"
NONCE_BYTES = 12
BLOCK_BYTES = 32
SECRET_BYTES = 32


class Algorithm(IntEnum):
    """How a key seals; the number stands in every sealed value."""

    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2


class Unreadable(Exception):
    """A sealed value does not open: another key, another place, or changed."""


class DataKey(NamedTuple):
    """A key that seals values of one subject; never stored like this."""

    id: str
    organisation: str
    subject: str
    algorithm: Algorithm
    secret: bytes

    def __repr__(self) -> str:
        return f"DataKey({self.id})"


class Spot(NamedTuple):
    """Where a sealed value stands; whose it is the key says."""

    id: str
    """Of the event, or of the content itself where that goes from event to event."""
    path: str
    """The field, and the place in it."""


def new_secret() -> bytes:
    """The secret of a new data key."""
    return secrets.token_bytes(SECRET_BYTES)


def seal(key: DataKey, spot: Spot, value: bytes) -> str:
    """The value as text that opens at this spot only."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    hidden = cipher(key).encrypt(nonce, padded(value), associated(key, key.algorithm, spot))
    body = bytes([key.algorithm]) + nonce + hidden
    return f"{FORMAT}{key.id}:{base64.urlsafe_b64encode(body).rstrip(b'=').decode()}"


def unseal(key: DataKey, spot: Spot, text: str) -> bytes:
    """The value that was sealed at this spot; raises Unreadable."""
    head = f"{FORMAT}{key.id}:"
    if not text.startswith(head):
        raise Unreadable(f"the value is not sealed under key {key.id}")
    try:
        body = base64.urlsafe_b64decode(text[len(head) :] + "==")
        algorithm = Algorithm(body[0])
        nonce, hidden = body[1 : 1 + NONCE_BYTES], body[1 + NONCE_BYTES :]
        if algorithm != key.algorithm:
            raise ValueError(f"{algorithm} is not the key's algorithm")
        shown = cipher(key).decrypt(nonce, hidden, associated(key, algorithm, spot))
    except (ValueError, IndexError, InvalidTag) as error:
        raise Unreadable(f"the value sealed under key {key.id} does not open here") from error
    return unpadded(shown)


def digest_key(key: DataKey, purpose: str) -> bytes:
    """What digests of one purpose are keyed with; it lives no longer than the data key."""
    derived = HKDF(SHA256(), SECRET_BYTES, salt=None, info=b"loomos " + purpose.encode())
    return derived.derive(key.secret)


def cipher(key: DataKey) -> AESGCM | ChaCha20Poly1305:
    """The key's cipher."""
    match key.algorithm:
        case Algorithm.AES_256_GCM:
            return AESGCM(key.secret)
        case Algorithm.CHACHA20_POLY1305:
            return ChaCha20Poly1305(key.secret)


def associated(key: DataKey, algorithm: Algorithm, spot: Spot) -> bytes:
    """What is bound to the value; each part with its length, so that no two spots look alike."""
    parts = [FORMAT.encode(), bytes([algorithm])]
    parts += [part.encode() for part in (key.id, key.organisation, key.subject, *spot)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def padded(value: bytes) -> bytes:
    """The value with a mark and zeros behind it, up to a whole number of blocks."""
    return value + b"\x80" + bytes(-(len(value) + 1) % BLOCK_BYTES)


def unpadded(value: bytes) -> bytes:
    """The value without what `padded` put behind it."""
    return value.rstrip(b"\0")[:-1]
