"""The process that services are forked from: it imports once what all of them share.

1. It forks only while it has one thread and neither an event loop nor a gRPC object.
2. It is the services' parent: it alone signals and reaps them, so no pid is ever a stranger's.
3. It dies with the supervisor, and each service dies with it.

Messages are JSON, one a packet. In: `{"start": service, "environ": {…}, "log": path}` and
`{"signal": service, "number": n}`. Out: `{"ready": true}`, `{"started": service, "pid": n}`,
`{"ended": service, "status": n}`.
"""

import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from loomos.embedded.runner import run_service

__all__ = ["MESSAGE_BYTES_MAX", "main"]

MESSAGE_BYTES_MAX = 65_536
PRELOADED = (
    "uvloop",
    "structlog",
    "prometheus_client",
    "cedarpy",
    "protovalidate",
    "grpc.aio",
    "grpc_health.v1.health",
    "grpc_reflection.v1alpha.reflection",
    "psycopg_pool",
    "argon2",
    "joserfc.jwt",
    "loom.kit.service",
)
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15
M_ARENA_MAX = -8


def main(descriptor: int, parent: int) -> None:
    """Serve the supervisor at the other end of `descriptor`."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    name(libc, "zygote")
    # Each thread's own memory arena would cost more than it gains in processes this small.
    libc.mallopt(M_ARENA_MAX, 2)
    for preloaded in PRELOADED:
        importlib.import_module(preloaded)
    gc.collect()
    gc.freeze()
    Zygote(socket.socket(fileno=descriptor), libc).serve()


def name(libc: ctypes.CDLL, text: str) -> None:
    """Show in process lists what this process is; the kernel keeps 15 bytes."""
    libc.prctl(PR_SET_NAME, f"loom:{text}"[:15].encode(), 0, 0, 0)


class Zygote:
    """The link to the supervisor and the running children."""

    def __init__(self, link: socket.socket, libc: ctypes.CDLL) -> None:
        self.link = link
        self.libc = libc
        self.children: dict[int, str] = {}

    def serve(self) -> None:
        """Fork, signal and reap until the supervisor is gone."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        awake, wake = socket.socketpair()
        for end in (awake, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        selector = selectors.DefaultSelector()
        selector.register(self.link, selectors.EVENT_READ)
        selector.register(awake, selectors.EVENT_READ)
        self.send({"ready": True})
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if awake in ready:
                awake.recv(4096)
                self.reap()
            if self.link in ready:
                packet = self.link.recv(MESSAGE_BYTES_MAX)
                if not packet:
                    return
                self.obey(json.loads(packet))

    def obey(self, message: dict[str, Any]) -> None:
        """Carry out one request."""
        if "start" in message:
            self.start(message["start"], message["environ"], message["log"])
            return
        for pid, service in self.children.items():
            if service == message["signal"]:
                os.kill(pid, message["number"])

    def start(self, service: str, environ: dict[str, str], log: str) -> None:
        """Fork a service."""
        assert len([*Path("/proc/self/task").iterdir()]) == 1
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self.become(service, environ, log, parent)
        self.children[pid] = service
        self.send({"started": service, "pid": pid})

    def become(self, service: str, environ: dict[str, str], log: str, parent: int) -> NoReturn:
        """Be the service: its own session, log and environment; never returns."""
        status = 1
        try:
            self.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            self.link.close()
            output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            nothing = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((nothing, 0), (output, 1), (output, 2)):
                os.dup2(source, target)
            os.close(output)
            os.close(nothing)
            os.environ.clear()
            os.environ.update(environ)
            name(self.libc, service)
            status = run_service(service)
        except BaseException:  # noqa: BLE001 - nothing may run on in the copy of the zygote
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def reap(self) -> None:
        """Tell the supervisor of every child that ended."""
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            service = self.children.pop(pid, "")
            self.send({"ended": service, "status": os.waitstatus_to_exitcode(status)})

    def send(self, message: dict[str, Any]) -> None:
        """Tell the supervisor; when it is gone the kernel ends us."""
        self.link.send(json.dumps(message).encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
