"""Checkpoints in a folder of this machine, or one that all nodes mount (NFS).

1. Nothing outside the root is read or deleted: names have a fixed form, every step is opened below
   the one before, and no link is followed.
2. Files go in two renames. `.gone-…` is no checkpoint any more but may still be put back, when a
   run took the same content again meanwhile (the agent touches the folder); `.dead-…` may not.
3. A deletion that was cut off is finished by the next; two at once do no harm.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from loomos.checkpoint.plugins import Spoiled

__all__ = ["Local"]

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 1 << 20
CHUNK_BYTES = 1 << 20
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Local:
    """The artifact store that node agents write to."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def verify(self, job_id: str, sha256: bytes, size_bytes: int) -> None:
        """Read every byte again; raises Spoiled where one differs, OSError where it cannot."""
        try:
            with self._job(job_id) as job, below(job, sha256.hex()) as folder:
                manifest = contents(folder, MANIFEST)
                if hashlib.sha256(manifest).digest() != sha256:
                    raise Spoiled(f"{MANIFEST} is not the one recorded")
                total = 0
                for path, size, digest in entries(manifest):
                    check(folder, path, size, digest)
                    total += size
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Spoiled(f"a part is missing: {error.filename}") from error
        if total != size_bytes:
            raise Spoiled(f"its files have {total} bytes, {size_bytes} were recorded")

    def delete(self, job_id: str, sha256: bytes, taken_until_us: int) -> bool:
        """Delete the files; False if they stay, for something took them again after that time."""
        name = sha256.hex()
        gone, dead = f".gone-{name}", f".dead-{name}"
        try:
            with self._job(job_id) as job:
                remove(job, dead)
                if taken_us(job, name) > taken_until_us:
                    return False
                with contextlib.suppress(FileNotFoundError):
                    os.rename(name, gone, src_dir_fd=job, dst_dir_fd=job)
                if taken_us(job, gone) > taken_until_us:
                    os.rename(gone, name, src_dir_fd=job, dst_dir_fd=job)
                    return False
                with contextlib.suppress(FileNotFoundError):
                    os.rename(gone, dead, src_dir_fd=job, dst_dir_fd=job)
                remove(job, dead)
                os.fsync(job)
        except FileNotFoundError:
            # The job's folder, or the whole store, is not there.
            return True
        return True

    @contextlib.contextmanager
    def _job(self, job_id: str) -> Iterator[int]:
        """The job's folder below the root."""
        if not NAME.fullmatch(job_id):
            raise Spoiled(f"job {job_id!r} cannot name a folder")
        root = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with below(root, job_id) as job:
                yield job
        finally:
            os.close(root)


@contextlib.contextmanager
def below(folder: int, *names: str) -> Iterator[int]:
    """A folder below an open one, no step of which is a link."""
    here = os.dup(folder)
    try:
        for name in names:
            there = os.open(name, FOLDER, dir_fd=here)
            os.close(here)
            here = there
        yield here
    finally:
        os.close(here)


def taken_us(job: int, name: str) -> int:
    """When an artifact was taken into the store last; 0 where there is none."""
    try:
        found = os.stat(name, dir_fd=job, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    if not stat.S_ISDIR(found.st_mode):
        raise Spoiled(f"{name} is no folder: nothing was deleted")
    return found.st_mtime_ns // 1000


def remove(job: int, name: str) -> None:
    """Remove a folder and what is below it, links themselves and not what they point to."""

    def lost_race(_function: object, _path: str, failure: object) -> None:
        error = failure[1] if isinstance(failure, tuple) else failure
        if not isinstance(error, FileNotFoundError):
            raise error if isinstance(error, OSError) else OSError(str(error))

    shutil.rmtree(name, dir_fd=job, onerror=lost_race)


def contents(folder: int, name: str) -> bytes:
    """A small plain file."""
    descriptor = os.open(name, FILE, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Spoiled(f"{name} is no plain file")
        data = file.read(MANIFEST_BYTES_MAX + 1)
    if len(data) > MANIFEST_BYTES_MAX:
        raise Spoiled(f"{name} has more than {MANIFEST_BYTES_MAX} bytes")
    return data


def entries(manifest: bytes) -> list[tuple[str, int, str]]:
    """Path, size and digest of each file."""
    try:
        found = json.loads(manifest)
        return [(str(path), int(size), str(digest)) for path, size, digest in found]
    except (ValueError, TypeError, RecursionError) as error:
        raise Spoiled(f"{MANIFEST} has another form than node agents write") from error


def check(folder: int, path: str, size_bytes: int, sha256: str) -> None:
    """Compare one file, every byte of it, with what the manifest says."""
    steps = path.split("/")
    if not all(NAME.fullmatch(step) for step in steps):
        raise Spoiled(f"{MANIFEST} names {path!r}, which leaves its folder")
    digest, size = hashlib.sha256(), 0
    with below(folder, "files", *steps[:-1]) as parent:
        descriptor = os.open(steps[-1], FILE, dir_fd=parent)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Spoiled(f"{path} is no plain file")
            while size <= size_bytes and (chunk := file.read(CHUNK_BYTES)):
                digest.update(chunk)
                size += len(chunk)
    if (size, digest.hexdigest()) != (size_bytes, sha256):
        raise Spoiled(f"{path} is not the file that was recorded")
