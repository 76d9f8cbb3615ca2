"""The platform's folder on this machine: who may use it, its ports and its state file.

1. One supervisor at a time: it holds a lock that the kernel gives back when it dies.
2. Ports are picked once and kept, from below the range that outgoing connections take theirs from.
3. The folder tells which layout its data have; another one is never touched.
4. `state.json` is replaced by rename: a reader sees one whole state or none.
"""

import fcntl
import json
import os
import random
import shutil
import socket
from pathlib import Path
from typing import IO, Any

from loomos.embedded.process import Unusable

__all__ = ["Home"]

LAYOUT = "loomos home, layout 1\n"
PORTS_FROM, PORTS_TO = 20_000, 32_000
DISK_BYTES_MIN = 512 * 2**20


class Home:
    """A folder that was opened for writing and has our layout."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> "Home":
        """Make or check the folder; raises Unusable."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            claim_layout(path)
            for name in ("logs", "credentials"):
                (path / name).mkdir(mode=0o700, exist_ok=True)
            free = shutil.disk_usage(path).free
        except OSError as error:
            raise Unusable(f"LOOMOS_HOME {path} is not writable: {error.strerror}") from error
        if free < DISK_BYTES_MIN:
            raise Unusable(
                f"the disk of LOOMOS_HOME {path} has {free // 2**20} MiB free, "
                f"{DISK_BYTES_MIN // 2**20} MiB are needed"
            )
        return cls(path)

    @property
    def logs(self) -> Path:
        """Where every process's log lies."""
        return self.path / "logs"

    @property
    def credentials(self) -> Path:
        """One folder a service, each with its keys and passwords."""
        return self.path / "credentials"

    @property
    def keys(self) -> Path:
        """What seals personal content, outside of the log and of what backs it up."""
        return self.path / "keys"

    @property
    def authority(self) -> Path:
        """The certificate authority's folder."""
        return self.path / "authority"

    def lock(self) -> IO[bytes] | None:
        """The supervisor's lock, held while the file is open; None while another holds it."""
        file = (self.path / "supervisor.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def ports(self, names: list[str]) -> dict[str, int]:
        """A port for each name: the one it had, else a free one that it keeps."""
        path = self.path / "ports.json"
        kept: dict[str, int] = json.loads(path.read_bytes()) if path.exists() else {}
        missing = [name for name in names if name not in kept]
        for name in missing:
            kept[name] = free_port(set(kept.values()))
        if missing:
            replace(path, json.dumps(kept, indent=1, sort_keys=True))
        return {name: kept[name] for name in names}

    def check_ports(self, ports: dict[str, int]) -> None:
        """Raise Unusable for the first port that another process listens on."""
        for name, port in ports.items():
            if not bindable(port):
                raise Unusable(
                    f"port {port} ({name}) is taken by another process: end it, or remove "
                    f"the line from {self.path / 'ports.json'} to pick another"
                )

    def read_state(self) -> dict[str, Any]:
        """What the supervisor last wrote; empty where none runs."""
        try:
            return json.loads((self.path / "state.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}

    def write_state(self, state: dict[str, Any]) -> None:
        """Tell everyone which processes run where."""
        replace(self.path / "state.json", json.dumps(state, indent=1))

    def clear_state(self) -> None:
        """Tell everyone that nothing runs."""
        (self.path / "state.json").unlink(missing_ok=True)


def claim_layout(path: Path) -> None:
    """Write the layout into a new folder; refuse a folder of another layout or of somebody else."""
    version = path / "version"
    if version.exists():
        found = version.read_text(errors="replace")
        if found != LAYOUT:
            raise Unusable(
                f"LOOMOS_HOME {path} has data of another version ({found.strip()[:60]!r}): "
                "use the LoomOS that made them, or another folder"
            )
        return
    if strangers := sorted(one.name for one in path.iterdir() if one.name != "supervisor.lock"):
        raise Unusable(
            f"LOOMOS_HOME {path} is not empty and no LoomOS home (it has {strangers[0]!r}): "
            "use another folder"
        )
    replace(version, LAYOUT)


def free_port(taken: set[int]) -> int:
    """A port nobody listens on."""
    for _ in range(1000):
        port = random.randrange(PORTS_FROM, PORTS_TO)  # noqa: S311 - no secret
        if port not in taken and bindable(port):
            return port
    raise Unusable(f"no free port between {PORTS_FROM} and {PORTS_TO} on 127.0.0.1")


def bindable(port: int) -> bool:
    """True where the port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def replace(path: Path, text: str) -> None:
    """Replace a file by rename."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    scratch.replace(path)
