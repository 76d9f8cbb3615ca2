"""A shim that has started already and waits to be told its run.

Most of what a run's start costs is Python's own start; a spare has it behind it.

1. It waits in nobody's folder; the run's folder, told once over its standard input, makes it that
   run's shim. Where no spare waits, a shim is started from nothing: the same program either way.
2. Before it is told it ends with its agent, whatever became of that; afterwards it outlives it.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path

__all__ = ["Spare", "launch"]

SERVICES = Path(__file__).parents[2]
BOOT = (
    f"import sys; sys.path.insert(0, {str(SERVICES)!r}); "
    "from loomos.node_agent.shim import main; main()"
)


class Spare:
    """At most one waiting shim of a node."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        """The folder of all runs; it stands in the process list until a run is told."""
        self.pid = 0
        self._wish = -1

    def prepare(self) -> None:
        """Start one, unless it waits already."""
        if self._waits():
            return
        told, self._wish = os.pipe()
        try:
            # The slash says that the run comes later.
            self.pid = launch(f"{self.runs}/", told, None)
        except OSError:
            os.close(self._wish)
            self._wish = -1
        finally:
            os.close(told)

    def take(self, folder: Path) -> int:
        """Make the waiting shim this run's, and give its pid; 0 where none waits."""
        if not self._waits():
            return 0
        pid, self.pid = self.pid, 0
        try:
            os.write(self._wish, os.fsencode(folder))
        except OSError:
            pid = 0
        finally:
            os.close(self._wish)
            self._wish = -1
        return pid

    def close(self) -> None:
        """End the one that waits."""
        if self._waits():
            os.close(self._wish)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid, self._wish = 0, -1

    def _waits(self) -> bool:
        """False, and its leavings cleared away, where none lives."""
        if not self.pid:
            return False
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(self.pid, os.WNOHANG)[0] == 0:
                return True
        os.close(self._wish)
        self.pid, self._wish = 0, -1
        return False


def launch(folder: str, stdin: int | None, errors: Path | None) -> int:
    """Start a shim for a run's folder; it belongs to no session of ours, so it outlives us."""
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    silent: tuple[int, int, str, int, int] = (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", "-c", BOOT, folder],
        {},
        file_actions=[
            silent if stdin is None else (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(errors or "/dev/null"), append, 0o600),
        ],
        setsid=True,
    )
