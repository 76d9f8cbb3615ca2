"""Node agents of the story: each a real process with a node's identity, folder and GPUs.

1. An agent that is killed leaves its jobs running; `start` is what a service manager would do.
2. Killing the node ends the agent and everything that ran there, at once.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["LEASE_SECONDS", "Agent"]

LEASE_SECONDS = 15
"""Longer than the resource manager takes to come back, short enough to wait for a dead node."""


@dataclass
class Agent:
    """One node."""

    home: Path
    name: str
    node_id: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """The node's own state."""
        return self.home / "nodes" / self.name

    @property
    def pid(self) -> int:
        """The agent's process; 0 before it was started."""
        return self.process.pid if self.process is not None else 0

    def start(self) -> None:
        """Run the agent."""
        own = {"LOOMOS_HOME": str(self.home), "LOOMOS_LEASE_SECONDS": str(LEASE_SECONDS)}
        with (self.home / "logs" / f"agent-{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "loomos.cli.main", "node", "run", "--name", self.name],
                env=os.environ | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> int:
        """Kill the agent's process alone; its pid."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        return self.process.pid

    def jobs(self) -> list[psutil.Process]:
        """The supervising parents of this node's jobs, and the jobs below them."""
        mark = f"{self.folder / 'runs'}/"
        found: list[psutil.Process] = []
        for one in psutil.process_iter(["cmdline"]):
            words = one.info["cmdline"] or ()
            if any(part.startswith(mark) for part in words):
                below = children(one)
                # A parent that waits for its run has no job yet, and ends with its agent.
                if below or mark not in words:
                    found += [one, *below]
        return found

    def kill_node(self) -> None:
        """Kill the agent and everything that runs on its node, as a power cut would."""
        doomed = self.jobs()
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for one in doomed:
            try:
                one.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue


def children(one: psutil.Process) -> list[psutil.Process]:
    """All descendants of a process that may just have ended."""
    try:
        return one.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
