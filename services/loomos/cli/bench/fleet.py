"""A platform of a bench's own, with its people and nodes, started as a newcomer starts it.

It is told by the command line and the gateway only, and stopped and removed at the end.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from loom.kit.client import Client
from loom.kit.config import Settings
from loom.kit.owners import connected
from loomos.cli.bench.ground import scratch
from loomos.cli.demo import nodes, people
from loomos.cli.demo.stage import Stage
from loomos.embedded.process import Unusable

__all__ = ["Fleet", "fleet"]

UP_SECONDS = 180.0


@dataclass
class Fleet:
    """A running platform."""

    stage: Stage
    warm_up_seconds: float
    """How long `up` took in a home that had been up before."""

    def join(self, name: str) -> None:
        """Start the agent of one of the demo's nodes and wait until it takes work."""
        agent = self.stage.agents[name] = nodes.admit(self.stage, name)
        nodes.ready(self.stage, agent)

    def token(self) -> str:
        """A short token of the administrator, as gRPC takes it."""
        door = self.stage.admin
        _, key_id, secret = door.key.split("_", 2)
        return door.call("POST", "/api/v1/tokens", {"api_key_id": key_id, "secret": secret})[
            "token"
        ]

    def client(self) -> AbstractAsyncContextManager[Client]:
        """Speaks gRPC to the services themselves."""
        settings = Settings.load("gateway", {"LOOMOS_HOME": str(self.stage.home)})
        return connected(settings, "gateway")


@contextmanager
def fleet(say: Callable[[str], None]) -> Iterator[Fleet]:
    """A platform that has been up before, with a researcher and no node."""
    with scratch() as home:
        stage = Stage(home, lambda told: None)
        try:
            say("first up, which makes storage")
            loomos(home, "up", "--detach")
            loomos(home, "down")
            say("second up")
            began = time.monotonic()
            loomos(home, "up", "--detach")
            seconds = time.monotonic() - began
            people.play(stage)
            yield Fleet(stage, seconds)
        finally:
            stage.close(keep=False)
            loomos(home, "down")


def loomos(home: Path, *words: str) -> None:
    """Run the command line to its end."""
    result = subprocess.run(
        [sys.executable, "-m", "loomos.cli.main", *words],
        env=os.environ | {"LOOMOS_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=UP_SECONDS,
        check=False,
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["it said nothing"]
        raise Unusable(f"loomos {' '.join(words)}: {lines[-1][:300]}")
