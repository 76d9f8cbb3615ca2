"""Asks a service of this machine for its gRPC health, over mutual TLS."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from loom.kit.config import Settings
from loom.kit.tls import channel_credentials

__all__ = ["healthy", "until_healthy"]

ASK_SECONDS = 2.0
PAUSE_SECONDS = 0.2


async def healthy(settings: Settings, address: str) -> bool:
    """True where the service says SERVING now."""
    async with grpc.aio.secure_channel(address, channel_credentials(settings)) as channel:
        return await serving(channel)


async def until_healthy(settings: Settings, address: str) -> None:
    """Return when the service says SERVING; who calls bounds the time."""
    # A channel would back off for seconds after its first refusal: a new one asks at once.
    while not await healthy(settings, address):  # noqa: ASYNC110 - the event is in another process
        await asyncio.sleep(PAUSE_SECONDS)


async def serving(channel: grpc.aio.Channel) -> bool:
    """One question; whatever fails is a no."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=ASK_SECONDS)
    except grpc.aio.AioRpcError:
        return False
    return answer.status == health_pb2.HealthCheckResponse.SERVING
