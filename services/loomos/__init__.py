"""The cloth: one folder a process type; and the Python client, `from loomos import Client`.

The client is loaded when it is first named, so that a service's process never pays for it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loomos.client import Client, Event, Refused

__all__ = ["Client", "Event", "Refused"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from loomos import client

        return getattr(client, name)
    raise AttributeError(f"module 'loomos' has no attribute {name!r}")
