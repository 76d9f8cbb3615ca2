"""The program of a worker process: loads one model version and answers batches on a socket.

1. Platform code is imported first, then every right is given up, then the tenant's files are read.
2. The files come as sealed memory, the requests on the socket; nothing else is ever opened.
3. It ends when the socket closes, and dies with its runtime.
"""

import contextlib
import ctypes
import importlib.metadata
import io
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from loomos.runtime import frames
from loomos.runtime.frames import raw_of
from loomos.runtime.plugins import DTYPES, BadModel, Model, Plugin, TensorSpec

__all__ = ["main"]

CLONE_NEWUSER, CLONE_NEWIPC, CLONE_NEWNET = 0x10000000, 0x08000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
FILES_OPEN_MAX = 512


def main() -> None:
    """Serve on the socket whose descriptor is the first argument."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    order, _ = receive(channel)
    try:
        model, isolation = prepare(order)
    except BadModel as error:
        send(channel, {"error": str(error)})
        return
    except Exception as error:  # noqa: BLE001 - the runtime is told, whatever it was
        send(channel, {"error": f"{type(error).__name__}: {error}"})
        return
    send(channel, {"isolation": isolation, **description(model)})
    with contextlib.suppress(EOFError):
        while True:
            answer(channel, model)


def prepare(order: Mapping[str, Any]) -> tuple[Model, list[str]]:
    """The loaded model, in a process that can do nothing else any more."""
    plugin = named(order["plugin"])
    warm()
    isolation = confine(order)
    opened = {path: os.fdopen(fd, "rb") for path, fd in order["files"].items()}
    try:
        return plugin.load(opened), isolation
    finally:
        for file in opened.values():
            file.close()


def named(name: str) -> Plugin:
    """The installed plugin of this name."""
    group = importlib.metadata.entry_points(group="loomos.runtime.plugins")
    found = {entry.name: entry for entry in group}
    if name not in found:
        raise BadModel(f"no runtime plugin {name!r} is installed: there are {sorted(found)}")
    return found[name].load()


def warm() -> None:
    """Have numpy import what it imports late, while there still is a file system."""
    file = io.BytesIO()
    np.savez(file, a=np.ones((2, 2)))
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        np.isfinite(arrays["a"] @ arrays["a"]).all()


def confine(order: Mapping[str, Any]) -> list[str]:
    """Give up files, network, other processes and root; what was reached, sorted."""
    libc = ctypes.CDLL(None, use_errno=True)
    reached = ["rlimits"]
    root = os.getuid() == 0
    spaces = CLONE_NEWNET | CLONE_NEWIPC | (0 if root else CLONE_NEWUSER)
    if libc.unshare(spaces) == 0:
        reached.append("network")
        os.chroot(order["root"])
        os.chdir("/")
        reached.append("filesystem")
    limit(order["memory_bytes_max"])
    if root:
        os.setgroups([])
        os.setresgid(order["uid"], order["uid"], order["uid"])
        os.setresuid(order["uid"], order["uid"], order["uid"])
        reached.append("uid")
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    # A change of uid clears it, hence last; the parent may be gone already.
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != order["parent"]:
        raise SystemExit("the runtime is gone")
    return sorted(reached)


def limit(memory_bytes_max: int) -> None:
    """No new files, processes or core dumps, and a bound on memory."""
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes_max),
        (resource.RLIMIT_NOFILE, FILES_OPEN_MAX),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def description(model: Model) -> dict[str, Any]:
    """What the runtime must know of the model."""
    return {
        "platform": model.platform,
        "batch_rows_max": model.batch_rows_max,
        "inputs": [list(spec) for spec in model.inputs],
        "outputs": [list(spec) for spec in model.outputs],
    }


def answer(channel: socket.socket, model: Model) -> None:
    """Run one batch; an error of the model is an answer too."""
    head, body = receive(channel)
    try:
        outputs = model.infer(unpacked(head["inputs"], body))
        specs = {spec.name: spec for spec in model.outputs}
        told = [(name, specs[name].datatype, list(one.shape)) for name, one in outputs.items()]
        parts = [raw_of(outputs[name], datatype) for name, datatype, _ in told]
    except Exception as error:  # noqa: BLE001 - the caller is told, and the worker goes on
        send(channel, {"error": f"{type(error).__name__}: {error}"})
        return
    send(channel, {"outputs": told}, *parts)


def unpacked(heads: list[list[Any]], body: bytes) -> dict[str, np.ndarray]:
    """The arrays of a frame, in the order of its head."""
    arrays: dict[str, np.ndarray] = {}
    offset = 0
    for name, datatype, shape in heads:
        spec = TensorSpec(name, datatype, tuple(shape))
        count = int(np.prod(spec.shape, dtype=np.int64))
        array = np.frombuffer(body, DTYPES[datatype], count, offset)
        offset += array.nbytes
        arrays[name] = array.reshape(spec.shape)
    return arrays


def receive(channel: socket.socket) -> tuple[dict[str, Any], bytes]:
    """The next frame; raises EOFError when the runtime is gone."""
    head, body = frames.lengths(exactly(channel, frames.LENGTHS.size))
    return json.loads(exactly(channel, head)), exactly(channel, body)


def exactly(channel: socket.socket, size: int) -> bytes:
    """So many bytes."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        count = channel.recv_into(view)
        if count == 0:
            raise EOFError
        view = view[count:]
    return bytes(buffer)


def send(channel: socket.socket, head: dict[str, Any], *body: bytes) -> None:
    """Write a frame."""
    channel.sendall(b"".join(frames.encode(head, *body)))


if __name__ == "__main__":
    main()
