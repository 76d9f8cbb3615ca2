"""Reads what stands in place of a file, whatever it is: a FIFO has no other end, a device none.

1. Nothing but a regular file is read, and never more of it than the caller has room for.
2. All that can go wrong is an OSError whose `strerror` says what, for people.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

__all__ = ["opened", "read"]


def opened(path: Path) -> BufferedReader:
    """A regular file, open for reading; OSError for anything else."""
    # Not to wait for the other end of a FIFO; a regular file is read as ever.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(handle, "rb")


def read(path: Path, bytes_max: int) -> bytes:
    """The content of a file of at most so many bytes; OSError for a larger one."""
    with opened(path) as file:
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        told = f"it has more than the {bytes_max} bytes that it may have"
        raise OSError(errno.EFBIG, told, str(path))
    return content
