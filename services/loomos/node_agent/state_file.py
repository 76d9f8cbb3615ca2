"""What a shim leaves in its run's folder: JSON that is whole as soon as anybody sees it.

Standard library only, because a shim is started without site-packages.
"""

import json
import os
from typing import Any

__all__ = ["show", "write_durably"]


def write_durably(path: str, facts: dict[str, Any]) -> None:
    """Writes a file that is whole and stays, whatever happens."""
    scratch = path + ".new"
    with open(scratch, "w", encoding="utf-8") as file:
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    _keep_names(path)


def show(path: str, facts: dict[str, Any]) -> None:
    """Writes a file that is whole when it is seen, and durable a moment later."""
    scratch = path + ".new"
    with open(scratch, "w", encoding="utf-8") as file:
        json.dump(facts, file)
        file.flush()
        os.replace(scratch, path)
        os.fsync(file.fileno())
    _keep_names(path)


def _keep_names(path: str) -> None:
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
