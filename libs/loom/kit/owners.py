"""Says where services listen: owners of shards by their leases, all others by the settings."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from loom.kit.client import Client
from loom.kit.config import Settings
from loom.log.topics import DECIDING, partition_of
from loom.store import Store

__all__ = ["address_of", "client_over", "connected"]


async def address_of(settings: Settings, store: Store, service: str, shard: str) -> str:
    """Where to ask a service about a shard; "" while nobody owns it."""
    if service not in DECIDING:
        return settings.address_of(service)
    return await store.owner_address(f"loomos.{service}", partition_of(shard, settings.partitions))


def client_over(settings: Settings, store: Store) -> Client:
    """A client that finds owners through an open store; to be closed."""
    return Client(settings, partial(address_of, settings, store))


@asynccontextmanager
async def connected(settings: Settings, role: str) -> AsyncIterator[Client]:
    """A client with a store of its own under a role of the database."""
    store = Store(settings.postgres, role, connections_max=1)
    await store.open()
    client = client_over(settings, store)
    try:
        yield client
    finally:
        await client.close()
        await store.close()
