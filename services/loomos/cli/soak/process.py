"""One instance of a service as the process that it is in life: killed, stopped, started again."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from loom.kit.config import Settings
from loomos.embedded.health import until_healthy
from loomos.embedded.process import spawn

__all__ = ["Process"]

ENDS_SECONDS = 60.0
POLL_SECONDS = 0.05


class Process:
    """Runs `loomos run SERVICE` with the given variables; its log is one file for its life."""

    def __init__(self, service: str, environ: Mapping[str, str], log: Path) -> None:
        self.service = service
        self.environ = environ
        self.log = log
        self.settings = Settings.load(service, environ)
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin; it does not serve yet."""
        argv = [sys.executable, "-m", "loomos.cli.main", "run", self.service]
        self.popen = spawn(argv, self.log, environ={**os.environ, **self.environ})

    @property
    def running(self) -> bool:
        """True while it has not ended; also while it is stopped."""
        return self.popen is not None and self.popen.poll() is None

    async def healthy(self, seconds: float = ENDS_SECONDS) -> None:
        """Return when it serves; AssertionError with the end of its log where it does not."""
        try:
            async with asyncio.timeout(seconds):
                await until_healthy(self.settings, self.settings.listen)
        except TimeoutError:
            raise AssertionError(f"{self.service} does not serve:\n{self.said()[-4000:]}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that runs now."""
        assert self.popen is not None
        self.popen.send_signal(number)

    def kill(self) -> None:
        """As `kill -9`, also of a stopped one."""
        if self.running:
            self.signal(signal.SIGKILL)
            assert self.popen is not None
            self.popen.wait()

    async def ended(self, seconds: float = ENDS_SECONDS) -> int:
        """Wait for its end; the exit status."""
        assert self.popen is not None
        async with asyncio.timeout(seconds):
            while self.running:  # noqa: ASYNC110 - the event is in another process
                await asyncio.sleep(POLL_SECONDS)
        return self.popen.returncode

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""
