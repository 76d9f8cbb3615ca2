"""Passwords: argon2id over a peppered password; neither pepper nor password is in any log.

1. The pepper is made once, 32 random bytes in a file that only its owner reads. Without it the
   hashes in the log cannot even be tried; lost, every password must be set anew.
2. Hashing runs beside the event loop, few at a time, with a bounded queue, whether or not callers
   wait for it: it is the cost that a guesser is made to pay, and must not become the cost that
   stops everybody else.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from loom.decider import Code, Rejected
from loom.kit.authority import write_secret

__all__ = ["check", "fits", "hashed", "pepper"]

CHARACTERS_MIN = 12
CHARACTERS_MAX = 128
DISTINCT_MIN = 5
AT_ONCE_MAX = 2
WAITING_MAX = 64
T = TypeVar("T")
HASHER = PasswordHasher()
# What a password of nobody is compared with: as costly to check as anybody's.
NOBODY = HASHER.hash(secrets.token_bytes(32))

_waiting: set[object] = set()
_slots = asyncio.Semaphore(AT_ONCE_MAX)


def pepper(folder: Path) -> bytes:
    """The pepper of this installation; made at the first call."""
    path = folder / "password.pepper"
    if not path.exists():
        write_secret(path, secrets.token_bytes(32))
    found = path.read_bytes()
    if len(found) != 32:
        raise RuntimeError(f"{path} holds {len(found)} bytes, not 32: restore it from the backup")
    return found


def check(password: str, user_name: str) -> None:
    """Rejected where the password is too short, too long or too easy to guess."""
    if not CHARACTERS_MIN <= len(password) <= CHARACTERS_MAX:
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"the password has {len(password)} characters: want {CHARACTERS_MIN} to "
            f"{CHARACTERS_MAX}",
            "password",
        )
    if len(set(password)) < DISTINCT_MIN or (user_name and user_name in password.lower()):
        raise Rejected(
            Code.INVALID_ARGUMENT,
            "the password is easy to guess: it must not hold the user name nor repeat few "
            "characters",
            "password",
        )


async def hashed(password: str, key: bytes) -> str:
    """The hash to store."""
    return await slowly(HASHER.hash, peppered(password, key))


async def fits(password: str, stored: str | None, key: bytes) -> bool:
    """True where the password is the stored one's; as slow where nothing is stored."""
    try:
        await slowly(HASHER.verify, stored or NOBODY, peppered(password, key))
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


def peppered(password: str, key: bytes) -> bytes:
    """What argon2 gets in the password's place."""
    return hmac.new(key, password.encode(), hashlib.sha256).digest()


async def slowly(work: Callable[..., T], *given: object) -> T:
    """Run the hasher in a thread, when it is its turn."""
    if len(_waiting) >= WAITING_MAX:
        raise Rejected(
            Code.RESOURCE_EXHAUSTED, "too many logins at once: try again in a few seconds"
        )
    ticket = object()
    _waiting.add(ticket)
    try:
        await _slots.acquire()
        hashing = asyncio.get_running_loop().run_in_executor(None, work, *given)
        # No thread can be stopped: a caller who gives up leaves its slot taken until it has ended.
        hashing.add_done_callback(lambda _: _slots.release())
        return await asyncio.shield(hashing)
    finally:
        _waiting.discard(ticket)
