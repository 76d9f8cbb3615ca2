"""Small disks for what Kafka and Postgres store, to be filled: ext4 images on loop devices.

They are there for root with loop devices only; elsewhere the faults are listed as not run.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Disk", "mounted"]

SIZE_BYTES = 2 * 2**30
LEFT_BYTES = 64 * 1024
STEP_BYTES = 2**20


class Disk:
    """A file system of its own at a folder."""

    def __init__(self, image: Path, at: Path) -> None:
        self.image = image
        self.at = at

    @property
    def ballast(self) -> Path:
        """The file that fills it."""
        return self.at / "ballast"

    def fill(self) -> None:
        """Leave room for nothing."""
        free = shutil.disk_usage(self.at).free
        with self.ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, max(STEP_BYTES, free - LEFT_BYTES))

    def clear(self) -> None:
        """Give the room back."""
        self.ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Take it away; busy or not."""
        subprocess.run(["umount", "--lazy", str(self.at)], check=False, capture_output=True)
        self.image.unlink(missing_ok=True)


def mounted(places: Mapping[Path, Path]) -> tuple[list[Disk], str]:
    """A disk for each image at its folder, in their order; or none of them, and why."""
    if os.geteuid() != 0:
        return [], "a loop mount needs root"
    for program in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(program) is None:
            return [], f"{program} is not installed"
    made: list[Disk] = []
    for image, at in places.items():
        why = mount(image, at)
        if why:
            for one in made:
                one.unmount()
            return [], why
        made.append(Disk(image, at))
    return made, ""


def mount(image: Path, at: Path) -> str:
    """Make a file system in a file and mount it; why not, or ""."""
    at.mkdir(mode=0o700, parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(SIZE_BYTES)
    # No reserved blocks: full is full for root too.
    make = ["mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1", str(image)]
    for command in (make, ["mount", "-o", "loop", str(image), str(at)]):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            image.unlink(missing_ok=True)
            said = result.stderr.strip().splitlines() or ["it said nothing"]
            return f"{command[0]}: {said[-1][:200]}"
    shutil.rmtree(at / "lost+found", ignore_errors=True)
    return ""
