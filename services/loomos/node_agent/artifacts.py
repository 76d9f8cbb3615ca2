"""What a job leaves behind, taken out of its hostile work folder into the artifact store.

1. Only plain files and folders count: a link, device, pipe or socket, a hard link to something
   else, or a name outside the allowed form fails the whole take-over and nothing is kept.
2. The bytes that are hashed are the bytes that are kept: each file is read once, through a
   descriptor that cannot be swapped for a link meanwhile.
3. An artifact is complete because it was renamed into place; its name in the store is its digest,
   SHA-256 over its manifest, so taking it twice is harmless and a changed byte is found on reading.
"""

import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import NamedTuple

PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
FILES_MAX = 256
DEPTH_MAX = 8
CHUNK_BYTES = 1 << 20
MANIFEST = "manifest.json"


class BadArtifact(Exception):
    """Something in the folder cannot be kept, or what was kept is not what it was."""


class File(NamedTuple):
    """One file of an artifact."""

    path: str
    size_bytes: int
    sha256: str


class Artifact(NamedTuple):
    """A complete artifact in the store."""

    location: str
    """Its folder, relative to the store."""
    sha256: bytes
    size_bytes: int
    files: tuple[File, ...]


def keep(source: Path, store: Path, group: str, bytes_max: int) -> Artifact:
    """Copies a folder, or a single file, of a job into the store under `group`."""
    if not PART.fullmatch(group):
        raise BadArtifact(f"group {group!r} cannot name a folder")
    target_folder = store / group
    target_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target_folder, prefix=".new-") as scratch:
        new = Path(scratch) / "artifact"
        files = _copy_tree(source, new, bytes_max)
        manifest = _manifest(files)
        digest = hashlib.sha256(manifest).digest()
        (new / MANIFEST).write_bytes(manifest)
        _sync(new / MANIFEST)
        final = target_folder / digest.hex()
        try:
            # Tells whoever deletes an earlier taking of the same bytes that they are wanted again.
            os.utime(final)
        except FileNotFoundError:
            new.replace(final)
            _sync(target_folder)
    size = sum(file.size_bytes for file in files)
    return Artifact(f"{group}/{digest.hex()}", digest, size, files)


def fetch(store: Path, location: str, sha256: bytes, target: Path) -> None:
    """Copies an artifact out of the store into `target`, checking every byte against its digest."""
    parts = location.split("/")
    if len(parts) != 2 or not all(PART.fullmatch(part) for part in parts):
        raise BadArtifact(f"location {location!r} is not of the form group/digest")
    folder = store / location
    try:
        manifest = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BadArtifact(f"artifact {location} is not in the store: {error.strerror}") from error
    if hashlib.sha256(manifest).digest() != sha256:
        raise BadArtifact(f"the manifest of artifact {location} is not the one recorded")
    target.mkdir(parents=True, exist_ok=True)
    for path, size_bytes, digest in json.loads(manifest):
        file = target / "files" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "files" / path, os.O_RDONLY | os.O_NOFOLLOW)
        found = _copy_file(descriptor, file, path, size_bytes)
        if found.size_bytes != size_bytes or found.sha256 != digest:
            raise BadArtifact(f"file {path} of artifact {location} was changed in the store")


def _copy_tree(source: Path, new: Path, bytes_max: int) -> tuple[File, ...]:
    (new / "files").mkdir(parents=True)
    found: list[File] = []
    if not stat.S_ISDIR(source.lstat().st_mode):
        parent = os.open(source.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            found.append(_take(parent, source.name, source.name, new, bytes_max))
        finally:
            os.close(parent)
        return tuple(found)
    left = bytes_max
    for folder, folders, names, descriptor in os.fwalk(source, follow_symlinks=False):
        relative = Path(folder).relative_to(source)
        if len(relative.parts) > DEPTH_MAX:
            raise BadArtifact(f"{relative} lies deeper than {DEPTH_MAX} folders")
        folders.sort()
        for name in sorted([*folders, *names]):
            path = (relative / name).as_posix()
            if not PART.fullmatch(name):
                raise BadArtifact(f"{path!r}: names must have the form {PART.pattern}")
            if name in folders and not stat.S_ISLNK(
                os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            ):
                continue
            if len(found) == FILES_MAX:
                raise BadArtifact(f"there are more than {FILES_MAX} files")
            found.append(_take(descriptor, name, path, new, left))
            left -= found[-1].size_bytes
    return tuple(sorted(found))


def _take(folder: int, name: str, path: str, new: Path, bytes_max: int) -> File:
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
        )
    except OSError as error:
        raise BadArtifact(f"{path!r} cannot be opened as a plain file: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(descriptor)
        raise BadArtifact(f"{path!r} is not a plain file of its own")
    target = new / "files" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    return _copy_file(descriptor, target, path, bytes_max)


def _copy_file(descriptor: int, target: Path, path: str, bytes_max: int) -> File:
    """Copies and hashes one open file, and closes it."""
    digest, size = hashlib.sha256(), 0
    with os.fdopen(descriptor, "rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            size += len(chunk)
            if size > bytes_max:
                raise BadArtifact(f"{path!r} exceeds the {bytes_max} bytes that are left for it")
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return File(path, size, digest.hexdigest())


def _manifest(files: tuple[File, ...]) -> bytes:
    return json.dumps([list(file) for file in files], separators=(",", ":")).encode()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Removes a folder that a job may have made hard to remove."""

    def force(function: object, path: str, _error: object) -> None:
        parent = Path(path).parent
        if not parent.is_symlink():
            parent.chmod(0o700)
        if Path(path).is_dir() and not Path(path).is_symlink():
            Path(path).chmod(0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            Path(path).unlink(missing_ok=True)

    if folder.exists():
        shutil.rmtree(folder, onerror=force)
