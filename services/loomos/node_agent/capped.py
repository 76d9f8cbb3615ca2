"""A file that stops growing at its cap.

1. What does not fit is counted, never an error: the one who writes is not held up by it.
2. The digest is that of the bytes kept, computed as they are written.
"""

import hashlib
import os


class Capped:
    """A file that keeps the first bytes, up to its cap, and counts the others."""

    def __init__(self, path: str, bytes_max: int, cut: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        self.descriptor = os.open(path, flags, 0o600)
        self.bytes_max, self.cut = bytes_max, cut
        self.kept_bytes = self.dropped_bytes = 0
        self.digest = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Keeps what fits, then the cut mark; without a mark the data is kept whole or not."""
        room = max(0, self.bytes_max - self.kept_bytes)
        kept = data if len(data) <= room else data[:room] if self.cut else b""
        if len(kept) < len(data):
            if not self.dropped_bytes:
                self._write(kept + self.cut)
            self.dropped_bytes += len(data) - len(kept)
            self.bytes_max = 0
        else:
            self._write(kept)

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self.descriptor, data)
        except OSError:
            written = 0  # the node's disk is full: the job goes on
        self.dropped_bytes += len(data) - written
        self.digest.update(data[:written])
        self.kept_bytes += written

    def close(self) -> str:
        """Makes the file durable; its SHA-256."""
        os.fsync(self.descriptor)
        os.close(self.descriptor)
        return self.digest.hexdigest()
