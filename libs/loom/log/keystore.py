"""Where wrapped data keys lie: outside the log and outside its backups (ADR 0016).

1. A key is stored wrapped only; who has the store and not the key-encryption key has nothing.
2. A number that was ever used for a subject is never used again: a tombstone keeps it. A key file
   that a restored copy brings back beside a tombstone counts as dead.
3. Destroying is durable before it returns: tombstone, zeros over the content, unlink, each synced.
   What a disk keeps of overwritten blocks is still wrapped: see docs/operating.md.
4. Who changes the folder holds its lock, so that re-wrapping cannot bring back what dies meanwhile.
"""

import base64
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from loom.log.seal import Algorithm

__all__ = ["Directory", "Keystore", "Tombstone", "Unusable", "Wrapped", "key_id", "tag_of"]

LIVE, DEAD = ".json", ".dead"
NAMES_MAX = 20_000


class Unusable(Exception):
    """The keystore or the key-encryption key cannot be used; the message says what to do."""


class Wrapped(NamedTuple):
    """A data key as it is stored."""

    id: str
    organisation: str
    subject: str
    number: int
    """1 for a subject's first key; the largest living one seals what is new."""
    algorithm: Algorithm
    created_at_us: int
    kek_id: str
    """The key-encryption key that unwraps it."""
    secret: bytes
    """The data key, wrapped."""


class Tombstone(NamedTuple):
    """What is left of a key that died."""

    id: str
    destroyed_at_us: int
    cause: str
    """The event that ordered it."""


class Keystore(Protocol):
    """What a place for wrapped keys must be able to do; every call returns when it is durable."""

    def create(self, key: Wrapped) -> bool:
        """Store a new key; False where its id is taken or dead."""
        ...

    def get(self, key_id: str) -> Wrapped | None:
        """A living key."""
        ...

    def alive(self, key_id: str) -> bool:
        """Whether the key lives; asked at every use, so it must be cheap."""
        ...

    def replace(self, key: Wrapped) -> bool:
        """Store a living key wrapped anew; False where it died meanwhile."""
        ...

    def destroy(self, key_id: str, cause: str, at_us: int) -> Tombstone:
        """End a key for ever; the first tombstone stands where there is one."""
        ...

    def living(self, organisation: str = "", subject: str = "") -> list[Wrapped]:
        """Living keys by id; empty names do not filter."""
        ...

    def used(self, organisation: str, subject: str) -> int:
        """The largest number that the subject's keys ever had; 0 for none."""
        ...

    def tombstone(self, key_id: str) -> Tombstone | None:
        """What is left of a dead key."""
        ...


def tag_of(organisation: str, subject: str) -> str:
    """What the ids of a subject's keys begin with."""
    return hashlib.sha256(f"{organisation}\0{subject}".encode()).hexdigest()[:24]


def key_id(organisation: str, subject: str, number: int) -> str:
    """The id of a subject's key."""
    return f"{tag_of(organisation, subject)}.{number}"


class Directory:
    """A keystore in a folder: one file a key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, tuple[str, str]] = {}
        make_folder(path)

    def create(self, key: Wrapped) -> bool:
        """Store a new key; False where its id is taken or dead."""
        live, dead = self._at(key.id, LIVE), self._at(key.id, DEAD)
        make_folder(live.parent)
        with self._lock():
            if dead.exists() or live.exists():
                return False
            write(live, packed(key))
        return True

    def get(self, key_id: str) -> Wrapped | None:
        """A living key."""
        if self._at(key_id, DEAD).exists():
            return None
        return read(self._at(key_id, LIVE))

    def alive(self, key_id: str) -> bool:
        """Whether the key lives."""
        live, dead = self._names(key_id)
        # Two questions to the system and no more: this runs for every sealed value.
        return os.path.exists(live) and not os.path.exists(dead)  # noqa: PTH110

    def replace(self, key: Wrapped) -> bool:
        """Store a living key wrapped anew; False where it died meanwhile."""
        with self._lock():
            if not self.alive(key.id):
                return False
            live = self._at(key.id, LIVE)
            with live.open("r+b") as before:
                write(live, packed(key))
                blank(before.fileno())
        return True

    def destroy(self, key_id: str, cause: str, at_us: int) -> Tombstone:
        """End a key for ever; the first tombstone stands where there is one."""
        live, dead = self._at(key_id, LIVE), self._at(key_id, DEAD)
        make_folder(live.parent)
        with self._lock():
            found = self.tombstone(key_id)
            if found is None:
                found = Tombstone(key_id, at_us, cause)
                write(dead, json.dumps(found._asdict()).encode())
            if live.exists():
                with live.open("r+b") as file:
                    blank(file.fileno())
                live.unlink()
                sync(live.parent)
        return found

    def living(self, organisation: str = "", subject: str = "") -> list[Wrapped]:
        """Living keys by id; empty names do not filter."""
        pattern = f"*/*{LIVE}"
        if organisation and subject:
            tag = tag_of(organisation, subject)
            pattern = f"{tag[:2]}/{tag}.*{LIVE}"
        found = []
        for path in sorted(self.path.glob(pattern)):
            key = self.get(path.name.removesuffix(LIVE))
            if key is not None and organisation in ("", key.organisation):
                found.append(key)
        return sorted(found, key=lambda key: (key.organisation, key.subject, key.number))

    def used(self, organisation: str, subject: str) -> int:
        """The largest number that the subject's keys ever had; 0 for none."""
        tag = tag_of(organisation, subject)
        names = (path.name for path in self.path.glob(f"{tag[:2]}/{tag}.*"))
        return max((int(name.split(".")[1]) for name in names), default=0)

    def tombstone(self, key_id: str) -> Tombstone | None:
        """What is left of a dead key."""
        path = self._at(key_id, DEAD)
        return Tombstone(**json.loads(path.read_bytes())) if path.exists() else None

    def _names(self, key_id: str) -> tuple[str, str]:
        found = self._known.get(key_id)
        if found is None:
            if len(self._known) >= NAMES_MAX:
                self._known.clear()
            found = str(self._at(key_id, LIVE)), str(self._at(key_id, DEAD))
            self._known[key_id] = found
        return found

    def _at(self, key_id: str, ending: str) -> Path:
        tag, dot, number = key_id.partition(".")
        if not (dot and len(tag) == 24 and tag.isalnum() and number.isdecimal()):
            raise ValueError(f"{key_id!r} is no id of a key")
        return self.path / tag[:2] / f"{key_id}{ending}"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.path / "lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def make_folder(path: Path) -> None:
    """Make a folder that only its owner enters, and those above it alike."""
    if not path.exists():
        make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        sync(path.parent)


def write(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads, whole or not at all, durably."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    sync(path.parent)


def blank(descriptor: int) -> None:
    """Write zeros over a file's content."""
    os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
    os.fsync(descriptor)


def sync(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def packed(key: Wrapped) -> bytes:
    """A key as its file says it."""
    content = key._asdict() | {
        "version": 1,
        "algorithm": key.algorithm.name,
        "secret": base64.b64encode(key.secret).decode(),
    }
    return json.dumps(content, sort_keys=True).encode() + b"\n"


def read(path: Path) -> Wrapped | None:
    """The key in a file; None where there is none."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Unusable(f"{path} is no stored key: restore the keystore") from error
    if content.pop("version", 0) != 1:
        raise Unusable(f"{path} has a format that this version does not read")
    content["algorithm"] = Algorithm[content["algorithm"]]
    content["secret"] = base64.b64decode(content["secret"])
    return Wrapped(**content)
