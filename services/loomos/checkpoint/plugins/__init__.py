"""What a storage of checkpoints can do: one file a plugin.

A checkpoint is named by its job and the digest of its manifest, and by nothing else: no path that
somebody reported reaches a plugin.
"""

from typing import Protocol

__all__ = ["Spoiled", "Storage"]


class Spoiled(Exception):
    """What lies in the store is not what was recorded, or nothing that may be touched."""


class Storage(Protocol):
    """Where node agents keep checkpoints; calls block, so they run in a thread."""

    def verify(self, job_id: str, sha256: bytes, size_bytes: int) -> None:
        """Read every byte again; raises Spoiled where one differs, OSError where it cannot."""
        ...

    def delete(self, job_id: str, sha256: bytes, taken_until_us: int) -> bool:
        """Delete the files; False if they stay, for something took them again after that time.

        Files that are gone already are deleted. Raises Spoiled or OSError where they stay for
        another reason; what was begun is finished by the next call.
        """
        ...
