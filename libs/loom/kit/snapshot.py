"""A partition's folded state at a base, stored so that the next claim need not read from offset 0.

1. A snapshot only makes things fast: it is used when its base still stands in the log, its digest
   fits its bytes and it was folded by the same code; otherwise the log is read from its beginning.
2. It is taken of confirmed state only: nothing of the claim is in flight.
3. What is loaded is data of our own classes and of a few plain ones; no other name is resolved.
"""

import hashlib
import importlib
import io
import pickle
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import structlog
from google.protobuf.message import Message

from loom.kit.answers import Answers
from loom.kit.contract import Service
from loom.kit.folder import Folder
from loom.log.judge import START, Base
from loom.log.topics import Bus
from loom.store import Store

__all__ = ["Snapshot", "load", "pickled", "save", "taken", "unfold"]

PLAIN = frozenset(
    (
        ("builtins", "set"),
        ("builtins", "frozenset"),
        ("builtins", "object"),
        ("builtins", "bytearray"),
        ("collections", "deque"),
        ("collections", "OrderedDict"),
        ("copyreg", "_reconstructor"),
        ("copyreg", "__newobj__"),
    )
)
OURS = ("loom.decider", "loom.v1.", "loom.kit.answers", "loom.log.judge", __name__, "loomos.")


@dataclass(slots=True)
class Snapshot:
    """All that a commander folds, at one base."""

    base: Base
    states: dict[str, Any]
    template: Any
    versions: dict[str, int]
    stories: dict[str, tuple[str, str]]
    inputs: dict[tuple[str, int], str]
    """For each foreign partition the base up to which its facts were let in."""
    answers: Answers
    last_us: int


class Frames:
    """Keeps a pickle's frames. The pickler calls it after each 64 KiB: only while Python code of
    ours runs do other threads, the loop that renews the lease among them, have their turn."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def write(self, frame: Any) -> None:
        """Take one."""
        self.kept.append(bytes(frame))


class Loader(pickle.Unpickler):
    """Resolves names of our own data classes and of plain containers, and nothing else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        """The class, or UnpicklingError."""
        if (module_name, global_name) in PLAIN:
            return super().find_class(module_name, global_name)
        if module_name.startswith(OURS) and "." not in global_name:
            found = super().find_class(module_name, global_name)
            if isinstance(found, type) and found.__module__ == module_name and holds_data(found):
                return found
        raise pickle.UnpicklingError(f"{module_name}.{global_name} has no place in a snapshot")


def holds_data(found: type) -> bool:
    """True for classes that making an instance of does nothing else."""
    return is_dataclass(found) or found is Answers or issubclass(found, Enum | Message | tuple)


@cache
def code_digest(service_name: str) -> str:
    """Digest of the code that folds: the service's verbs, the contracts, and the folder itself."""
    whole = hashlib.sha256()
    package = importlib.import_module(f"loomos.{service_name.replace('-', '_')}")
    folders = [Path(path) for path in package.__path__]
    contracts = importlib.import_module("loom.v1")
    folders += [Path(path) for path in contracts.__path__]
    for name in ("answers.py", "folder.py"):
        whole.update((Path(__file__).parent / name).read_bytes())
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            whole.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def taken(folder: Folder, answers: Answers, base: Base, last_us: int) -> Snapshot:
    """The folder's states as a snapshot; valid until the next fold."""
    return Snapshot(
        base,
        folder.states,
        folder.template,
        folder.versions,
        folder.stories,
        {key: inputs.base.text() for key, inputs in folder.inputs.items()},
        answers,
        last_us,
    )


def unfold(service: Service, bus: Bus, partition: int, known: Snapshot | None) -> Folder:
    """A folder that stands where the snapshot was taken, or at the log's beginning."""
    if known is None:
        return Folder(service, bus, partition)
    heard = {key: Base.parse(text) for key, text in known.inputs.items()}
    folder = Folder(service, bus, partition, heard)
    folder.states, folder.template = known.states, known.template
    folder.versions, folder.stories = known.versions, known.stories
    return folder


def pickled(found: Snapshot) -> bytes:
    """A snapshot as bytes; to be called beside the loop, while nothing folds."""
    frames = Frames()
    pickle.Pickler(frames, pickle.HIGHEST_PROTOCOL).dump(found)
    return b"".join(frames.kept)


async def save(service: Service, store: Store, partition: int, state: bytes, base: Base) -> None:
    """Store a pickled snapshot, replacing the earlier one."""
    async with store.connection() as connection:
        await connection.execute(
            "INSERT INTO snapshots VALUES (%s, %s, %s, %s, %s, %s) "
            "ON CONFLICT (topic, partition) DO UPDATE SET base = excluded.base, "
            "code_digest = excluded.code_digest, digest = excluded.digest, state = excluded.state",
            (
                service.topic,
                partition,
                base.text(),
                code_digest(service.name),
                hashlib.sha256(state).digest(),
                state,
            ),
        )


async def load(service: Service, store: Store, partition: int) -> Snapshot | None:
    """The stored snapshot, or None where there is none that this code may use."""
    async with store.connection() as connection:
        row = await (
            await connection.execute(
                "SELECT base, digest, state FROM snapshots WHERE topic = %s AND partition = %s "
                "AND code_digest = %s",
                (service.topic, partition, code_digest(service.name)),
            )
        ).fetchone()
    if row is None or hashlib.sha256(row["state"]).digest() != row["digest"]:
        return None
    try:
        found = Loader(io.BytesIO(row["state"])).load()
    except Exception as error:  # noqa: BLE001 - bytes that are no snapshot may fail in any way
        structlog.get_logger().error("snapshot ignored", topic=service.topic, reason=repr(error))
        return None
    return found if isinstance(found, Snapshot) and found.base != START else None
