"""The process types that `loomos up` starts, in the order they start in.

Node agents are not among them: a node joins by its own token, on whatever machine it is.
"""

import importlib.util

from loom.log.topics import DECIDING

__all__ = ["ALL", "EDGES", "found", "module"]

EDGES = ("telemetry", "runtime", "gateway")
ALL = (*DECIDING, *EDGES)


def module(service: str) -> str:
    """The name of the module that a process of this type runs."""
    return f"loomos.{service.replace('-', '_')}.main"


def found() -> tuple[str, ...]:
    """The process types that this installation carries."""
    return tuple(service for service in ALL if exists(module(service)))


def exists(name: str) -> bool:
    """True where a module of this name can be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
