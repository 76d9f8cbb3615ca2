"""The supervisor's end of the zygote: services as tasks that start, end and are started again.

1. A service that ends is started again after a pause that doubles up to half a minute; a minute of
   health forgets the past.
2. A zygote that dies takes the services with it; a new one is spawned and all are started again.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loomos.embedded.process import Unusable, tail
from loomos.embedded.zygote import MESSAGE_BYTES_MAX

__all__ = ["Child", "Children"]

PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 0.5, 30.0
FORGIVEN_SECONDS = 60.0
STOP_SECONDS = 12.0
PRELOAD_SECONDS = 60.0


@dataclass(slots=True)
class Child:
    """One supervised service."""

    service: str
    environ: Mapping[str, str]
    log: Path
    pid: int = 0
    restarts: int = 0
    healthy: bool = False
    started: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    status: int = 0


class Children:
    """All services of one home, and the process that they are forked from."""

    def __init__(self, log: Path, changed: Callable[[], None]) -> None:
        self.log = log
        self.changed = changed
        self.services: dict[str, Child] = {}
        self.zygote: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._ready = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None

    def spawn(self) -> None:
        """Start a zygote; it imports while the caller does other things."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        command = [sys.executable, "-m", "loomos.embedded.zygote"]
        command += [str(theirs.fileno()), str(os.getpid())]
        with theirs, self.log.open("ab") as output:
            self.zygote = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._ready.clear()
        self._link = ours

    async def listen(self) -> None:
        """Hear the zygote until it is gone, then spawn another, for ever."""
        while True:
            assert self._link is not None and self.zygote is not None
            packet = await self.receive(self._link)
            if packet:
                self.heard(json.loads(packet))
                continue
            self._link.close()
            self.zygote.wait()
            if not self._ready.is_set():
                raise Unusable(f"services cannot be loaded: {tail(self.log)} (see {self.log})")
            for child in self.services.values():
                self.end(child, -signal.SIGKILL)
            self.spawn()

    async def receive(self, link: socket.socket) -> bytes:
        """The next packet; empty when the zygote is gone."""
        try:
            return await asyncio.get_running_loop().sock_recv(link, MESSAGE_BYTES_MAX)
        except ConnectionError:
            return b""

    def heard(self, message: dict[str, Any]) -> None:
        """Note what the zygote tells."""
        if "ready" in message:
            self._ready.set()
        elif "started" in message:
            child = self.services[message["started"]]
            child.pid = message["pid"]
            child.started.set()
            self.changed()
        elif child := self.services.get(message["ended"]):
            self.end(child, message["status"])

    def end(self, child: Child, status: int) -> None:
        """Note that a child is no more."""
        child.pid, child.status, child.healthy = 0, status, False
        child.started.clear()
        child.ended.set()
        self.changed()

    async def start(self, child: Child) -> None:
        """Have a service forked."""
        async with asyncio.timeout(PRELOAD_SECONDS):
            await self._ready.wait()
        child.ended.clear()
        self.services[child.service] = child
        self.send(
            {"start": child.service, "environ": dict(child.environ), "log": str(child.log)},
        )

    async def keep(self, child: Child) -> None:
        """Start a service, and start it again whenever it ends."""
        loop = asyncio.get_running_loop()
        pause = PAUSE_SECONDS_MIN
        while True:
            started = loop.time()
            await self.start(child)
            await child.ended.wait()
            if loop.time() - started > FORGIVEN_SECONDS:
                pause = PAUSE_SECONDS_MIN
            child.restarts += 1
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)

    async def stop(self) -> None:
        """End all services at once, gently first."""
        running = [child for child in self.services.values() if child.pid]
        for number, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, 5.0)):
            left = [child for child in running if not child.ended.is_set()]
            for child in left:
                self.send({"signal": child.service, "number": int(number)})
            if left:
                waits = [asyncio.create_task(child.ended.wait()) for child in left]
                _, late = await asyncio.wait(waits, timeout=seconds)
                for wait in late:
                    wait.cancel()

    def close(self) -> None:
        """End the zygote, and with it whatever is left of the services."""
        if self._link is not None:
            self._link.close()
        if self.zygote is not None:
            try:
                self.zygote.wait(5)
            except subprocess.TimeoutExpired:
                self.zygote.kill()
                self.zygote.wait()

    def send(self, message: dict[str, Any]) -> None:
        """Tell the zygote; one that just died is noticed by `listen`."""
        assert self._link is not None
        try:
            self._link.send(json.dumps(message).encode())
        except OSError:
            return
