"""The outside client's own environment: tritonclient wants a protobuf that ours is not.

1. It is made once, in the cache folder, and renamed into place whole; later demos need no network.
2. It is made while the story runs; a network that is away fails the step that needs it, no other.
"""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from loomos.cli.demo.stage import Stage, require

__all__ = ["Outsider"]

PACKAGES = ("tritonclient[grpc,http]==2.73.0", "scikit-learn>=1.5")
NAME = "outside-client-2.73.0"
SIZE = "about 110 MiB, 20 s"
WAIT_SECONDS = 300


class Outsider:
    """A Python that has tritonclient, now or soon."""

    def __init__(self, stage: Stage) -> None:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        self.stage = stage
        self.folder = Path(base) / "loomos" / NAME
        self.scratch = self.folder.with_name(f".{NAME}.{os.getpid()}")
        self.log = stage.home / "logs" / "outside-client.log"
        self.maker = threading.Thread(target=self.make, daemon=True)

    def prepare(self) -> None:
        """Begin to make the environment where it is not there yet."""
        if not self.folder.exists():
            told = f"fetching tritonclient for an outside client: {SIZE}, once"
            self.stage.tell({"progress": told})
            self.maker.start()

    def make(self) -> None:
        """Make the environment; what goes wrong is in the log."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        python = str(self.scratch / "bin" / "python")
        if uv := os.environ.get("UV") or shutil.which("uv"):
            made = self.run(uv, "venv", "--quiet", "--python", sys.executable, str(self.scratch))
            install = (uv, "pip", "install", "--quiet", "--python", python)
        else:
            made = self.run(sys.executable, "-m", "venv", str(self.scratch))
            install = (python, "-m", "pip", "install", "--quiet")
        if made and self.run(*install, *PACKAGES):
            self.scratch.rename(self.folder)
        else:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def run(self, *command: str) -> bool:
        """Whether a command succeeds; it ends with the story."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.stage.helpers.append(process)
        return process.wait() == 0

    def python(self) -> Path:
        """The interpreter, once it is ready; NotHeld where the packages cannot be had."""
        if self.maker.ident is not None:
            self.maker.join(WAIT_SECONDS)
        said = self.log.read_text()[-400:] if self.log.exists() else ""
        require(
            self.folder.exists(),
            f"tritonclient cannot be fetched: is a package index reachable? {said}",
        )
        return self.folder / "bin" / "python"
