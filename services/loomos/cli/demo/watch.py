"""Follows one job's events as they happen.

Invariant: each event is kept once, in the stream's order, however often the connection breaks.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from loomos.cli.door import Door
from loomos.client.profile import Refused

__all__ = ["Watch"]

ENDED = ("JOB_STATUS_COMPLETED", "JOB_STATUS_FAILED", "JOB_STATUS_CANCELLED")
AGAIN_SECONDS = 0.3


class Watch:
    """A job's events so far, and whoever waits for the next."""

    def __init__(self, door: Door, job_id: str) -> None:
        self.job_id = job_id
        self.door = door
        self.updates: list[dict[str, Any]] = []
        self.changed = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self.follow, daemon=True)
        self.thread.start()

    def follow(self) -> None:
        """Take what comes; ask again from the beginning where the connection broke."""
        while not self.closed and not self.over():
            try:
                for update in self.door.lines(f"/api/v1/jobs/{self.job_id}/events"):
                    self.take(update)
                    if self.closed:
                        return
            except (Refused, RuntimeError):
                time.sleep(AGAIN_SECONDS)

    def take(self, update: dict[str, Any]) -> None:
        """Keep an event that is new."""
        with self.changed:
            seen = int(self.updates[-1]["version"]) if self.updates else 0
            if int(update["version"]) > seen:
                self.updates.append(update)
                self.changed.notify_all()

    def over(self) -> bool:
        """True when the job has ended."""
        return bool(self.updates) and self.updates[-1]["status"] in ENDED

    def first(
        self, fits: Callable[[dict[str, Any]], bool], seconds: float, since: int = 0
    ) -> dict[str, Any] | None:
        """The first event after version `since` that fits, once it came; None if it did not."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                for update in self.updates:
                    if int(update["version"]) > since and fits(update):
                        return update
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self.changed.wait(left)

    @property
    def version(self) -> int:
        """The version of the last event that came."""
        return int(self.updates[-1]["version"]) if self.updates else 0

    def close(self) -> None:
        """Follow no longer."""
        self.closed = True
