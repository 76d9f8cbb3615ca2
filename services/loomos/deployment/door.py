"""Reads a version's own `metrics.json` before the version is decided on.

1. The file is read from the artifact store by its digest: what is decided on are the bytes that
   were registered, and they stand in the event.
2. Metrics that the caller gave are never overwritten; a file that says nonsense is refused.
"""

import asyncio
import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from loom.kit.caller import Caller
from loom.kit.errors import Failure, shown
from loom.v1 import deployment_pb2 as pb

if TYPE_CHECKING:
    from loom.kit.service import Shell

__all__ = ["measured", "prepare"]

FILE = "metrics.json"
FILE_BYTES_MAX = 64 * 1024
VALUE_MAX = 10**9
METRICS_MAX = 256
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}")


async def prepare(command: Message, caller: Caller, shell: "Shell") -> Message:
    """A registration that names no metrics takes those of its artifact."""
    if isinstance(command, pb.RegisterModelVersionRequest) and not command.metrics:
        for index, file in enumerate(command.artifact.files):
            if file.path == FILE:
                field = f"artifact.files[{index}]"
                store = shell.settings.home / "artifacts"
                measured(command, await asyncio.to_thread(contents, store, file, field), field)
    return command


def contents(store: Path, file: pb.ArtifactFile, field: str) -> bytes:
    """The file's bytes, if they are the registered ones; the path's form has no `..`."""
    if file.size_bytes > FILE_BYTES_MAX:
        raise bad(field, f"{FILE} has {file.size_bytes} bytes: at most {FILE_BYTES_MAX}")
    try:
        descriptor = os.open(store / file.location, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as source:
            data = source.read(FILE_BYTES_MAX + 1)
    except OSError:
        data = b""
    # One answer for absent and different: nobody learns here which files there are.
    if len(data) != file.size_bytes or hashlib.sha256(data).digest() != file.sha256:
        raise bad(field, f"{FILE} with sha256 {file.sha256.hex()} is not at {file.location}")
    return data


def measured(command: pb.RegisterModelVersionRequest, data: bytes, field: str) -> None:
    """Put the file's numbers, in parts per million, and its dataset's digest into the command."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise bad(field, f"{FILE} is not JSON: {error}") from error
    if not isinstance(found, dict) or len(found) > METRICS_MAX:
        raise bad(field, f"{FILE} is {shown(found)}: want an object of at most {METRICS_MAX} names")
    for name, value in sorted(found.items()):
        if name == "dataset_sha256":
            command.lineage.dataset_sha256 = digest(value, field)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if not NAME.fullmatch(name):
                raise bad(field, f"{FILE} names {shown(name)}: want the form {NAME.pattern}")
            command.metrics.add(name=name, value_ppm=ppm(name, value, field))


def digest(value: Any, field: str) -> bytes:
    """A SHA-256 in hexadecimal."""
    try:
        found = bytes.fromhex(value)
    except (TypeError, ValueError):
        found = b""
    if len(found) != hashlib.sha256().digest_size:
        raise bad(field, f"dataset_sha256 in {FILE} is {shown(value)}: want 64 hexadecimal digits")
    return found


def ppm(name: str, value: float, field: str) -> int:
    """A finite number in parts per million."""
    # Written so that NaN fails it, and that a huge whole number is compared without rounding.
    if not abs(value) <= VALUE_MAX:
        raise bad(field, f"{name} in {FILE} is {shown(value)}: want at most {VALUE_MAX}")
    return round(value * 1_000_000)


def bad(field: str, what: str) -> Failure:
    """The artifact's metrics cannot be used."""
    return Failure("INVALID_ARGUMENT", f"{field}: {what}", field)
