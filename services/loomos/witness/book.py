"""What a witness remembers: for each log the last checkpoint that it cosigned, as one file.

1. A checkpoint is on disk, name and all, before its cosignature leaves the process.
2. Comparing with the last one and replacing it are one step, under one lock; a second process on
   the same folder is refused.
3. A file that cannot be read stops the answers about that log: a witness that forgets is worse
   than none.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from loom.log import regular
from loom.log.cosign import Cosigner
from loom.log.notary import replace_durably
from loom.log.note import Checkpoint, InvalidNote, Verifier, load_key, parse_checkpoint, split

__all__ = ["Book", "BookHeld", "Entry", "Trusted", "found"]

SETTINGS_FILE = "witness.json"
SETTINGS_BYTES_MAX = 1 << 20
NOTE_BYTES_MAX = 131_072 * 4
KEY_FILE = "witness.key"
PUBLIC_FILE = "witness.pub"


class BookHeld(Exception):
    """Another process keeps this witness's book."""


class Trusted(NamedTuple):
    """A log's key, and what the origins of its trees begin with."""

    verifier: Verifier
    prefix: str


class Entry(NamedTuple):
    """The last cosigned checkpoint of one log."""

    checkpoint: Checkpoint
    note: str


class Book:
    """A witness's folder: settings, key, and one file a log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            settings = json.loads(regular.read(folder / SETTINGS_FILE, SETTINGS_BYTES_MAX))
            self.name = str(settings["name"])
            self.token_digest = bytes.fromhex(settings["token_sha256"])
            self.logs = [
                Trusted(Verifier.parse(one["key"]), str(one["prefix"])) for one in settings["logs"]
            ]
        except FileNotFoundError:
            raise InvalidNote(f"{folder} is no witness's folder: `loomos witness init`") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidNote(f"{folder / SETTINGS_FILE} cannot be read: {error!r}") from error
        if not (folder / KEY_FILE).exists() or not (folder / "logs").is_dir():
            raise InvalidNote(f"{folder} has lost its key or its book: found a new witness")
        self.cosigner = Cosigner(self.name, load_key(folder / KEY_FILE))
        self.lock = Lock()

    def trusted(self, origin: str) -> Trusted | None:
        """The log's key, where its origin is known."""
        return next((one for one in self.logs if origin.startswith(one.prefix)), None)

    def path(self, origin_digest: str) -> Path:
        """Where the entry of an origin (its SHA-256 in hex) lies."""
        return self.folder / "logs" / origin_digest

    def last(self, origin: str) -> Entry | None:
        """The last cosigned checkpoint of a log; raises InvalidNote where it cannot be read."""
        return self.entry(self.path(digest_of(origin)))

    def entry(self, path: Path) -> Entry | None:
        """The entry in a file, None where there is none; raises InvalidNote."""
        try:
            note = regular.read(path, NOTE_BYTES_MAX).decode()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidNote(f"{path}: {error}") from error
        checkpoint = parse_checkpoint(split(note)[0])
        if digest_of(checkpoint.origin) != path.name:
            raise InvalidNote(f"{path} is of {checkpoint.origin!r}, another log than its name's")
        return Entry(checkpoint, note)

    def keep(self, origin: str, note: str) -> None:
        """Remember, durably, the checkpoint that is about to be cosigned."""
        replace_durably(self.path(digest_of(origin)), note.encode())

    def entries(self) -> list[Entry]:
        """Everything remembered, by origin; raises InvalidNote where one cannot be read."""
        paths = [path for path in self.folder.glob("logs/*") if "." not in path.name]
        found = [entry for entry in map(self.entry, paths) if entry is not None]
        return sorted(found, key=lambda entry: entry.checkpoint.origin)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other process away from the book."""
        handle = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise BookHeld(f"another process runs the witness in {self.folder}") from None
        finally:
            os.close(handle)


def digest_of(origin: str) -> str:
    """How an origin is named in paths."""
    return sha256(origin.encode()).hexdigest()


def found(folder: Path, name: str, logs: list[Trusted], token_digest: bytes) -> Book:
    """Make a witness's folder with a key of its own; refused where there is one already."""
    if (folder / SETTINGS_FILE).exists():
        raise InvalidNote(f"{folder} holds a witness already: take another folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "logs").mkdir(mode=0o700, exist_ok=True)
    cosigner = Cosigner(name, load_key(folder / KEY_FILE))
    (folder / PUBLIC_FILE).write_text(cosigner.public.text() + "\n")
    settings = {
        "name": name,
        "token_sha256": token_digest.hex(),
        "logs": [{"key": one.verifier.text(), "prefix": one.prefix} for one in logs],
    }
    replace_durably(folder / SETTINGS_FILE, (json.dumps(settings, indent=2) + "\n").encode())
    return Book(folder)
