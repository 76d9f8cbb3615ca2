"""Services as the processes that they are in life, to be killed, stopped and started again."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from tests.conftest import Platform

from loom.kit.config import Settings
from loomos.embedded.health import until_healthy
from loomos.embedded.process import spawn

__all__ = ["Process", "Processes", "port"]


def port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """One instance of a service."""

    def __init__(self, platform: Platform, service: str, number: int, **more: str) -> None:
        self.service = service
        self.listen = f"127.0.0.1:{port()}"
        self.log = platform.home.logs / f"{service}-{number}.log"
        self.environ = platform.environ(service, LOOMOS_LISTEN=self.listen, **more)
        self.settings = Settings.load(service, self.environ)
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin; it is not healthy yet."""
        argv = [sys.executable, "-m", "loomos.cli.main", "run", self.service]
        self.popen = spawn(argv, self.log, environ=os.environ | self.environ)

    async def healthy(self, seconds: float = 60) -> None:
        """Wait until it serves; tells its log where it does not."""
        try:
            async with asyncio.timeout(seconds):
                await until_healthy(self.settings, self.listen)
        except TimeoutError:
            raise AssertionError(f"{self.service} is not healthy:\n{self.said()[-4000:]}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that runs now."""
        assert self.popen is not None
        self.popen.send_signal(number)

    def kill(self) -> None:
        """As `kill -9`."""
        self.signal(signal.SIGKILL)
        assert self.popen is not None
        self.popen.wait()

    async def ended(self, seconds: float = 60) -> int:
        """Wait for its end; the exit status."""
        assert self.popen is not None
        async with asyncio.timeout(seconds):
            while self.popen.poll() is None:
                await asyncio.sleep(0.05)
        return self.popen.returncode

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Processes:
    """All instances of one test; none outlives it."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.all: list[Process] = []

    def add(self, service: str, **more: str) -> Process:
        """Start one more instance."""
        process = Process(self.platform, service, len(self.all), **more)
        self.all.append(process)
        process.start()
        return process

    def stop(self) -> None:
        """Kill what runs."""
        for one in self.all:
            if one.popen is not None and one.popen.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    one.signal(signal.SIGCONT)
                one.kill()
            Path(one.log).unlink(missing_ok=True)
