"""A worker process as its runtime sees it: started, asked, and ended.

1. It gets a clean environment and three descriptors' worth of world: its socket and its files.
2. What it answers is checked against what its model declared; a worker that breaks the protocol
   or its deadline is killed.
"""

import asyncio
import contextlib
import json
import math
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loom.kit.errors import Failure
from loomos.runtime import frames
from loomos.runtime.frames import raw_of
from loomos.runtime.plugins import DTYPES, TensorSpec

__all__ = ["Confinement", "Process", "WorkerGone", "cannot_start", "start"]

START_SECONDS = 30.0
BATCH_SECONDS = 30.0
END_SECONDS = 2.0
ENVIRONMENT = {"LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class WorkerGone(Exception):
    """The worker died or was killed; the message says why."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What a worker may use."""

    uid: int
    memory_bytes_max: int
    root: Path
    """An empty folder: all of the file system that it sees."""


@dataclass(slots=True)
class Process:
    """A worker that is ready."""

    child: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    platform: str
    batch_rows_max: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    isolation: tuple[str, ...]

    async def infer(self, arrays: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
        """The outputs of one batch; raises WorkerGone, or Failure when the model refuses it."""
        heads = [(spec.name, spec.datatype, arrays[spec.name].shape) for spec in self.inputs]
        parts = [raw_of(arrays[spec.name], spec.datatype) for spec in self.inputs]
        try:
            async with asyncio.timeout(BATCH_SECONDS):
                self.writer.writelines(frames.encode({"inputs": heads}, *parts))
                await self.writer.drain()
                head, body = await received(self.reader)
        except TimeoutError as error:
            raise WorkerGone(f"it did not answer within {BATCH_SECONDS:.0f} s") from error
        if "error" in head:
            raise Failure("INTERNAL", f"the model failed: {head['error']}", reason="MODEL_FAILED")
        return checked(head, body, self.outputs, rows)

    async def end(self) -> None:
        """Close its socket, and kill it if that does not end it."""
        self.writer.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self.child.wait()
        except TimeoutError:
            await killed(self.child)


async def start(plugin: str, files: Mapping[str, int], confinement: Confinement) -> Process:
    """A worker that has loaded the model; raises Failure where the model cannot be served."""
    ours, theirs = socket.socketpair()
    with theirs:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-m",
            "loomos.runtime.worker",
            str(theirs.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd="/",
            pass_fds=(theirs.fileno(), *files.values()),
        )
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    order = {
        "plugin": plugin,
        "files": dict(files),
        "uid": confinement.uid,
        "memory_bytes_max": confinement.memory_bytes_max,
        "root": str(confinement.root),
        "parent": os.getpid(),
    }
    try:
        async with asyncio.timeout(START_SECONDS):
            writer.writelines(frames.encode(order))
            head, _ = await received(reader)
        if "error" in head:
            raise Failure("FAILED_PRECONDITION", f"the model cannot be loaded: {head['error']}")
        return described(child, reader, writer, head)
    except BaseException as error:
        writer.close()
        await killed(child)
        if isinstance(error, TimeoutError):
            raise WorkerGone(f"it was not ready within {START_SECONDS:.0f} s") from error
        raise


def described(
    child: asyncio.subprocess.Process,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    head: Mapping[str, Any],
) -> Process:
    """The ready worker, by its own description."""

    def specs(key: str) -> tuple[TensorSpec, ...]:
        found = tuple(TensorSpec(n, t, tuple(map(int, s))) for n, t, s in head[key])
        if not found or any(one.datatype not in DTYPES or not one.shape for one in found):
            raise WorkerGone(f"its model describes no usable {key}")
        return found

    return Process(
        child,
        reader,
        writer,
        str(head["platform"]),
        int(head["batch_rows_max"]),
        specs("inputs"),
        specs("outputs"),
        tuple(map(str, head["isolation"])),
    )


async def received(reader: asyncio.StreamReader) -> tuple[dict[str, Any], bytes]:
    """The worker's next frame; raises WorkerGone."""
    try:
        head, body = frames.lengths(await reader.readexactly(frames.LENGTHS.size))
        found = json.loads(await reader.readexactly(head))
        return found, await reader.readexactly(body)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise WorkerGone("it ended") from error
    except (ValueError, frames.FrameTooLarge) as error:
        raise WorkerGone(f"it broke the protocol: {error}") from error


def checked(
    head: Mapping[str, Any], body: bytes, specs: tuple[TensorSpec, ...], rows: int
) -> dict[str, np.ndarray]:
    """The outputs, if they are what the model declared."""
    arrays: dict[str, np.ndarray] = {}
    offset = 0
    for spec, (name, datatype, shape) in zip(specs, head["outputs"], strict=True):
        fits = len(shape) == len(spec.shape) and shape[0] == rows
        fits = fits and all(
            want in (-1, size) for size, want in zip(shape, spec.shape, strict=True)
        )
        size = math.prod(shape) * DTYPES[spec.datatype].itemsize
        if (name, datatype) != spec[:2] or not fits or offset + size > len(body):
            raise WorkerGone(f"it answered {name} {datatype} {shape}: declared was {spec}")
        part = memoryview(body)[offset : offset + size]
        arrays[name] = np.frombuffer(part, DTYPES[spec.datatype]).reshape(shape)
        offset += size
    return arrays


async def killed(child: asyncio.subprocess.Process) -> None:
    """Kill the process and take its status."""
    with contextlib.suppress(ProcessLookupError):
        child.kill()
    await child.wait()


def cannot_start(error: Exception) -> Failure:
    """Why a start did not work."""
    if isinstance(error, Failure):
        return error
    return Failure("FAILED_PRECONDITION", f"the worker cannot be started: {error}")
