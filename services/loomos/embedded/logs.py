"""Keeps the logs of a home under a size: copied aside and cut, while their writers go on.

Writers append, so after the cut they write at the start. Lines written between copy and cut are
lost: logs are for reading along, the truth is in the log of events.
"""

import os
import shutil
from pathlib import Path

__all__ = ["cap"]

LOG_BYTES_MAX = 16 * 2**20


def cap(folder: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Move what a too large log holds into `<name>.1`, over what was there."""
    for log in folder.glob("*.log"):
        # Kafka turns its own over.
        if log.name != "kafka.log" and log.stat().st_size > bytes_max:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)
