"""Services as the processes that they are in life, to be killed, stopped and started again."""

import os
import socket
import subprocess
import sys

from tests.conftest import Platform

from loomos.cli.soak.process import Process

__all__ = ["Process", "Processes", "loomos", "port"]


def loomos(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """The command line, run to its end; `environ` wins over this process's own variables."""
    return subprocess.run(
        [sys.executable, "-m", "loomos.cli.main", *words],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """All instances of one test; none outlives it."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.all: list[Process] = []

    def add(self, service: str, **more: str) -> Process:
        """Start one more instance."""
        environ = self.platform.environ(service, LOOMOS_LISTEN=f"127.0.0.1:{port()}", **more)
        log = self.platform.home.logs / f"{service}-{len(self.all)}.log"
        process = Process(service, environ, log)
        self.all.append(process)
        process.start()
        return process

    def stop(self) -> None:
        """Kill what runs."""
        for one in self.all:
            one.kill()
            one.log.unlink(missing_ok=True)
