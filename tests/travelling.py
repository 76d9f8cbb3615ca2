"""Travels through a service's past on real stores; the tests' bus lends its rights to read."""

import contextlib
import types
from collections.abc import AsyncIterator
from typing import Any

from loom.kit import scratch
from loom.kit.config import Settings
from loom.kit.contract import Service
from loom.kit.travel import Travels
from loom.log.topics import Bus
from loom.store import Store

__all__ = ["over", "travelling"]


def over(bus: Bus, settings: Settings) -> Any:
    """The bus as settings, with a service's database."""
    made = types.SimpleNamespace(
        **{name: getattr(bus, name) for name in dir(bus) if not name.startswith("_")}
    )
    made.postgres, made.environ = settings.postgres, {}
    return made


@contextlib.asynccontextmanager
async def travelling(service: Service, bus: Bus, settings: Settings) -> AsyncIterator[Travels]:
    """A service's travels over a store of its own; leaves no tables of a moment."""
    store = Store(settings.postgres, service.name)
    await store.open()
    await store.prepare(service.schema)
    nobody: Any = None
    found = Travels(service, over(bus, settings), store, nobody)
    yield found
    await found.stop()
    await scratch.sweep(store, 0)
    await store.close()
