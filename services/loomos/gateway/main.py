"""Runs the gateway: HTTPS and gRPC for people and their programs, mTLS to the services."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator
from importlib import resources

import uvicorn

from loom.catalogue import contracts
from loom.kit import observe, tls
from loom.kit.config import InvalidSetting, Settings
from loom.kit.owners import client_over
from loom.kit.relay import relay
from loom.store import Store
from loomos.gateway.rest import Rest

__all__ = ["run"]

CONNECTIONS_MAX = 1000
KEEP_ALIVE_SECONDS = 30
GRACE_SECONDS = 3
HEAD_BYTES_MAX = 16 * 1024


class Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process has one owner of those."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `run`."""
        yield


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; raises InvalidSetting where the door cannot be opened."""
    log = observe.start(settings)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    store = Store(settings.postgres, "gateway", connections_max=4)
    client = client_over(settings, store)
    commented = resources.files("loom.v1").joinpath("contracts.binpb").read_bytes()
    rest = Rest(client, contracts(), [commented])
    async with contextlib.AsyncExitStack() as stack:
        listener = stack.enter_context(opened(settings.gateway_listen))
        await store.open()
        stack.push_async_callback(store.close)
        stack.push_async_callback(client.close)
        metrics = await stack.enter_async_context(observe.MetricsDoor(settings))
        host = settings.gateway_listen.rpartition(":")[0]
        log.info(
            "serving",
            address=f"https://{host}:{listener.getsockname()[1]}",
            metrics=metrics.address,
        )
        # What REST opens, gRPC opens, and no more.
        routes = {one.route.path: one.route for one in rest.bindings}.values()
        served = await relay(routes, client, settings, rest.identities.bearer, rest.strangers.take)
        stack.push_async_callback(served.stop, 0)
        await serve(rest, settings, listener, stopping)


def opened(address: str) -> socket.socket:
    """A socket that listens at an address; raises InvalidSetting where it cannot."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, int(port)), family=family, backlog=512)
    except OSError as error:
        raise InvalidSetting(
            f"LOOMOS_GATEWAY_LISTEN is {address!r}: {error.strerror or error}"
        ) from error


async def serve(
    rest: Rest, settings: Settings, listener: socket.socket, stopping: asyncio.Event
) -> None:
    """Answer HTTPS on a listening socket until told to stop."""
    context = tls.server_context(settings, client_certificates=False)
    config = uvicorn.Config(
        rest.asgi,
        loop="none",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    config.load()
    # The context of our own follows renewals of the leaf.
    config.ssl = context
    server = Server(config)
    async with asyncio.TaskGroup() as tasks:
        renewal = tasks.create_task(tls.renew(context, settings))
        serving = tasks.create_task(server.serve(sockets=[listener]))
        waiting = tasks.create_task(stopping.wait())
        await asyncio.wait((serving, waiting), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await asyncio.wait((serving,))
        waiting.cancel()
        renewal.cancel()
