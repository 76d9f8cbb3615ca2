"""A model's files: read from the artifact store, verified, sealed in memory for one worker.

1. The bytes that a worker reads are the bytes that were hashed: they are copied into memory that
   nobody can change any more, and only that memory is handed over.
2. No link is followed on the way and no path leaves the store.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from loom.kit.errors import Failure
from loom.v1 import deployment_pb2

__all__ = ["sealed"]

ARTIFACT_BYTES_MAX = 4 * 1024**3
CHUNK_BYTES = 1024 * 1024
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@contextlib.contextmanager
def sealed(store: Path, artifact: deployment_pb2.Artifact) -> Iterator[dict[str, int]]:
    """Descriptors of the verified files by path, closed at the end; raises Failure."""
    size = sum(file.size_bytes for file in artifact.files)
    if size > ARTIFACT_BYTES_MAX:
        raise unusable(f"the artifact has {size} bytes: at most {ARTIFACT_BYTES_MAX} are served")
    opened: dict[str, int] = {}
    try:
        for file in artifact.files:
            opened[file.path] = copied(store, file)
        yield opened
    finally:
        for descriptor in opened.values():
            os.close(descriptor)


def copied(store: Path, file: deployment_pb2.ArtifactFile) -> int:
    """A sealed copy of one file whose digest and size are as registered."""
    memory = os.memfd_create("model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with os.fdopen(opened_below(store, file.location), "rb", buffering=0) as source:
            digest, size = hashlib.sha256(), 0
            while chunk := source.read(CHUNK_BYTES):
                size += len(chunk)
                if size > file.size_bytes:
                    break
                digest.update(chunk)
                os.write(memory, chunk)
        if size != file.size_bytes or digest.digest() != file.sha256:
            raise unusable(
                f"{file.path} at {file.location} is not the file that was registered: want "
                f"{file.size_bytes} bytes with sha256 {file.sha256.hex()}"
            )
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS)
        os.lseek(memory, 0, os.SEEK_SET)
    except OSError as error:
        os.close(memory)
        raise unusable(
            f"{file.path} at {file.location} cannot be read: {error.strerror}"
        ) from error
    except BaseException:
        os.close(memory)
        raise
    return memory


def opened_below(store: Path, location: str) -> int:
    """The file at a relative location, every step of which is no link."""
    *folders, name = location.split("/")
    if not name or {"", ".", ".."} & {*folders, name}:
        raise unusable(f"location {location!r} is no plain relative path")
    here = os.open(store, FOLDER)
    try:
        for folder in folders:
            below = os.open(folder, FOLDER, dir_fd=here)
            os.close(here)
            here = below
        return os.open(name, FILE, dir_fd=here)
    finally:
        os.close(here)


def unusable(message: str) -> Failure:
    """The artifact cannot be served."""
    return Failure("FAILED_PRECONDITION", message, "artifact", reason="ARTIFACT_UNUSABLE")
