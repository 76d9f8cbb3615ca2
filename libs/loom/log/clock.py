"""Hybrid logical time: microseconds that follow the wall clock and never stand still or go back.

A cause that crosses partitions lifts the clock, so an effect is always later than its cause; a
clock that runs ahead (a cause from a faster machine) waits for the wall by counting up by one.
"""

import time

__all__ = ["Clock", "now_us"]


def now_us() -> int:
    """The wall clock, microseconds since 1970."""
    return time.time_ns() // 1000


class Clock:
    """One partition's time; strictly increasing."""

    __slots__ = ("last_us",)

    def __init__(self, last_us: int = 0) -> None:
        self.last_us = last_us

    def tick(self, cause_us: int = 0) -> int:
        """The time of the next decision, later than every earlier one and than its cause."""
        self.last_us = max(now_us(), self.last_us + 1, cause_us + 1)
        return self.last_us

    def witness(self, at_us: int) -> None:
        """Remember a time read from the log."""
        self.last_us = max(self.last_us, at_us)
