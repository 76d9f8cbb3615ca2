"""Asks nothing of other services: what a deployment causes outside is the effect's work."""

from loom.decider import Command, Recorded
from loomos.deployment.state import State

__all__ = ["react"]


def react(record: Recorded, view: State) -> list[Command]:
    """No event of this service causes a command by itself."""
    return []
