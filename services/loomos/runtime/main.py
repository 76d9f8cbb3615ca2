"""Wires the runtime: the control door, the two inference doors, and the models between them.

`LOOMOS_INFERENCE_REST` and `LOOMOS_INFERENCE_GRPC` say where people reach the models; the artifact
store is the folder `artifacts` of the home.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import uvicorn

from loom.kit import observe, tls
from loom.kit.authorize import Authorizer, Caller
from loom.kit.config import InvalidSetting, Settings
from loom.kit.config import address as listen_address
from loom.kit.rpc import serve as serve_contract
from loom.v1 import runtime_pb2
from loomos.runtime import rest, rpc
from loomos.runtime.control import Control
from loomos.runtime.door import Door
from loomos.runtime.models import Models

__all__ = ["Runtime", "run", "running"]

REQUESTS_AT_ONCE_MAX = 256
GRACE_SECONDS = 2.0


class Runtime(NamedTuple):
    """A runtime that is up, and where."""

    models: Models
    control_address: str
    rest_url: str
    grpc_address: str


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    log = observe.start(settings)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    authorizer = Authorizer(settings)
    await authorizer.start()
    try:
        async with (
            observe.MetricsDoor(settings),
            running(settings, authorizer.authenticate) as runtime,
        ):
            log.info(
                "serving",
                address=runtime.control_address,
                rest=runtime.rest_url,
                grpc=runtime.grpc_address,
            )
            await stopping.wait()
    finally:
        await authorizer.stop()


@asynccontextmanager
async def running(
    settings: Settings, authenticate: Callable[[str | None, str | None], Awaitable[Caller]]
) -> AsyncIterator[Runtime]:
    """A runtime with its three doors open; all of it is gone at the end."""
    async with contextlib.AsyncExitStack() as stack:
        models = Models(settings.home / "runtime", settings.home / "artifacts")
        stack.push_async_callback(models.close)
        models.restore()
        door = Door(models, authenticate)
        rest_url = await stack.enter_async_context(web(door, settings))
        inference, grpc_address = await rpc.serve(
            door, settings, listen_address("LOOMOS_INFERENCE_GRPC", settings.environ)
        )
        stack.push_async_callback(inference.stop, GRACE_SECONDS)
        control = await serve_contract(
            runtime_pb2, Control(models, rest_url, grpc_address), settings, authenticate
        )
        stack.push_async_callback(control.stop, GRACE_SECONDS)
        yield Runtime(models, control.address, rest_url, grpc_address)


@asynccontextmanager
async def web(door: Door, settings: Settings) -> AsyncIterator[str]:
    """The REST door; its URL."""
    listen = listen_address("LOOMOS_INFERENCE_REST", settings.environ)
    host, _, port = listen.rpartition(":")
    context = tls.server_context(settings, client_certificates=False)
    config = uvicorn.Config(
        rest.application(door),
        host=host.strip("[]"),
        port=int(port),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=REQUESTS_AT_ONCE_MAX,
        timeout_graceful_shutdown=int(GRACE_SECONDS),
    )
    config.load()
    # The context is ours, not made from paths by uvicorn, so that it can follow renewals.
    config.ssl = context
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    try:
        await server.startup()
    except SystemExit as error:
        raise InvalidSetting(f"LOOMOS_INFERENCE_REST is {listen!r}: it is taken") from error
    renewal = asyncio.create_task(tls.renew(context, settings))
    ticking = asyncio.create_task(server.main_loop())
    bound = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"https://{host}:{bound}"
    finally:
        renewal.cancel()
        server.should_exit = True
        await ticking
        await server.shutdown()
        await asyncio.gather(renewal, return_exceptions=True)
