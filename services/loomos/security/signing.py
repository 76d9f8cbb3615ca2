"""The key that signs tokens: made here, published in the log, replaced every 90 days.

1. The private part lies in the credentials folder, readable by its owner alone.
2. A token is signed only with a key whose public part the log holds.
3. A key's id derives from its public part, so an id can never come to mean another key.
"""

import asyncio
import base64
import hashlib
import time
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loom.decider import Position
from loom.kit.authority import write_secret
from loom.v1 import security_pb2 as pb
from loomos.security.state import PLATFORM

__all__ = ["Signer", "load", "signer"]

FILE = "signing.key"
LIFE_US = 90 * 24 * 3600 * 1_000_000

_publishing = asyncio.Lock()


class Signer(NamedTuple):
    """A signing key with its private part."""

    key_id: str
    private_pem: bytes
    public: bytes


def load(folder: Path) -> Signer:
    """The key of this folder; made at the first call."""
    path = folder / FILE
    if not path.exists():
        make(path)
    private = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(private, Ed25519PrivateKey):
        raise RuntimeError(f"{path} is not an Ed25519 key: restore it, or remove it for a new one")
    public = private.public_key().public_bytes_raw()
    token = base64.b32encode(hashlib.sha256(public).digest())[:20].decode().lower()
    return Signer(f"sign-{PLATFORM}-{token}", path.read_bytes(), public)


def make(path: Path) -> None:
    """Write a fresh key."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_secret(path, pem)


async def signer(shell: Any) -> Signer:
    """The key to sign with now, published; replaced first when it has served its time."""
    folder, known = shell.settings.credentials, shell.authorizer.view.signing_keys
    async with _publishing:
        found = load(folder)
        published = known.get(found.key_id)
        if published is not None and published.since_us + LIFE_US < time.time_ns() // 1000:
            make(folder / FILE)
            found, published = load(folder), None
        if published is None:
            receipt = await shell.tell(
                pb.PublishSigningKeyRequest(
                    signing_key_id=found.key_id, organisation_id=PLATFORM, public_key=found.public
                )
            )
            for at in receipt.positions:
                await shell.authorizer.reached(
                    Position(at.topic, at.partition, at.offset, at.incarnation)
                )
        return found
