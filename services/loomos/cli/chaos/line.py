"""A TCP line on loopback that carries everything to a store until it is told to do worse.

1. What was taken in is carried on in order or not at all; a cut aborts both ends (a TCP reset).
2. It runs on a loop and a thread of its own, so it goes on while who breaks it waits.
"""

import asyncio
import random
import socket
import struct
import threading
from enum import Enum
from pathlib import Path

from loom.kit.authority import Authority, write_secret
from loomos.embedded.kafka import Broker, Ports

__all__ = ["Line", "LinedBroker", "Mode"]

CHUNK_BYTES = 64 * 1024
POLL_SECONDS = 0.02
DELAY_SECONDS = (0.1, 0.3)
RESET = struct.pack("ii", 1, 0)


class Mode(Enum):
    """What becomes of bytes."""

    OPEN = "open"
    CUT = "cut"
    """No connection lives, none is taken."""
    NO_REQUESTS = "nothing reaches the store"
    NO_ANSWERS = "nothing comes back"
    SLOW = "each piece takes 100 to 300 ms"


class Line:
    """Listens on a port of its own and carries to another."""

    def __init__(self, target_port: int, seed: int) -> None:
        self.target_port = target_port
        self.mode = Mode.OPEN
        self.carried_bytes = 0
        self._chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def set(self, mode: Mode) -> None:
        """From now on; a cut aborts what stands."""
        self.mode = mode
        if mode is Mode.CUT:
            self._loop.call_soon_threadsafe(self._abort)

    def close(self) -> None:
        """Carry nothing any more."""
        self.set(Mode.CUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, sock=self._listener)
        )
        self._loop.run_forever()
        self._abort()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _abort(self) -> None:
        for writer in self._writers:
            reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode is Mode.CUT:
            reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            reset(writer)
            return
        pair = {writer, far_writer}
        self._writers |= pair
        ways = [
            asyncio.ensure_future(self._carry(reader, far_writer, Mode.NO_REQUESTS)),
            asyncio.ensure_future(self._carry(far_reader, writer, Mode.NO_ANSWERS)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for one in pair:
                one.close()
            self._writers -= pair

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, held: Mode
    ) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                if self.mode is Mode.SLOW:
                    await asyncio.sleep(self._chance.uniform(*DELAY_SECONDS))
                while self.mode is held:  # noqa: ASYNC110 - another thread opens it again
                    await asyncio.sleep(POLL_SECONDS)
                writer.write(data)
                self.carried_bytes += len(data)
                await writer.drain()
        except OSError:
            return


class LinedBroker(Broker):
    """A broker that tells its clients to come over a line."""

    def __init__(self, folder: Path, logs: Path, ports: Ports, authority: Authority) -> None:
        super().__init__(folder, logs, ports, authority)
        self.line: Line | None = None

    @property
    def bootstrap(self) -> str:
        """Where services connect: the line, once there is one."""
        return super().bootstrap if self.line is None else f"127.0.0.1:{self.line.port}"

    def configure(self) -> None:
        """As the broker of `loomos up`; of a setting that stands twice, the last one counts."""
        super().configure()
        agents = self.ports.agents
        told = f"advertised.listeners=SERVICES://{self.bootstrap},AGENTS://127.0.0.1:{agents}\n"
        path = self.folder / "server.properties"
        write_secret(path, path.read_text() + told)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a dead network does: by a reset, whatever waits in it."""
    found: socket.socket | None = writer.get_extra_info("socket")
    if found is not None and found.fileno() >= 0:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
