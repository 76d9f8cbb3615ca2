"""Child processes on a leash: they die with who started them, and strangers are never killed.

1. A child asks the kernel for a signal at its parent's death before it becomes its program.
2. Only the main thread starts children: the kernel counts the death of the thread that forked.
3. A process is known by pid *and* start time, so a number used again is never signalled.
4. Every failure that an operator can mend is one line, raised as `Unusable`.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

__all__ = [
    "Unusable",
    "alive",
    "kill_inside",
    "mark",
    "spawn",
    "stop",
    "stop_marked",
    "tail",
    "wait_until",
]

TAIL_BYTES = 4096
# Runs in a fresh interpreter: between fork and exec of a threaded parent no Python may run.
LEASH = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[1]), 0, 0, 0)
os.getppid() == int(sys.argv[2]) or os._exit(1)
try:
    os.execv(sys.argv[3], sys.argv[3:])
except OSError as error:
    print(f"{sys.argv[3]}: {error.strerror}", flush=True)
    os._exit(127)
"""


KILLED_SECONDS = 5.0
NOT_STARTED = 127
LOUD = ("ERROR", "FATAL", "rror:", "rror occurred", "Exception:", "critical")


class Unusable(Exception):
    """The platform cannot start here; the message is the one line an operator reads."""


def spawn(
    argv: Sequence[str | Path],
    log: Path,
    *,
    environ: Mapping[str, str] | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
    outer: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start a program that gets `death_signal` when we die; `outer` wraps it (a namespace)."""
    assert threading.current_thread() is threading.main_thread()
    leash = [sys.executable, "-I", "-S", "-c", LEASH, str(int(death_signal)), str(os.getpid())]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*outer, *leash, *map(str, argv)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if environ is None else dict(environ),
            # Ctrl-C at the terminal is ours to handle; children are stopped in order.
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes], gently: signal.Signals, seconds: float) -> None:
    """Signal a child and wait; kill it when it has not ended after `seconds`."""
    if process.poll() is None:
        process.send_signal(gently)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def mark(pid: int) -> str:
    """What names this process for ever: its pid and its start time."""
    try:
        return f"{pid} {psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""


def alive(marked: str) -> psutil.Process | None:
    """The process so marked, if it still runs."""
    try:
        pid, started = marked.split()
        process = psutil.Process(int(pid))
        if f"{process.create_time():.2f}" == started and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except (ValueError, psutil.NoSuchProcess):
        pass
    return None


def stop_marked(
    marked: str, gently: signal.Signals, seconds: float, *, family: bool = True
) -> bool:
    """Stop a process by its mark, with its descendants; False where there was none."""
    process = alive(marked)
    if process is None:
        return False
    stopped = [process, *(process.children(recursive=True) if family else ())]
    process.send_signal(gently)
    _, left = psutil.wait_procs(stopped, seconds)
    for one in left:
        one.kill()
    psutil.wait_procs(left, KILLED_SECONDS)
    return True


def kill_inside(folder: Path) -> None:
    """Kill every process whose working folder this is, and wait until they are gone."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(folder.resolve()):
                process.kill()
                found.append(process)
        except psutil.Error:
            continue
    psutil.wait_procs(found, KILLED_SECONDS)


def tail(log: Path) -> str:
    """The last line of a log that says something, for an error of one line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    told = [line.strip() for line in lines if line.strip() and not line.startswith(("\t", " "))]
    loud = [line for line in told if any(word in line for word in LOUD)]
    return unwrapped((loud or told or [""])[-1])[:300]


def unwrapped(line: str) -> str:
    """What a JSON log line says; other lines as they are."""
    try:
        told = json.loads(line)
        return str(told.get("error") or told.get("event"))
    except (ValueError, AttributeError):
        return line


def wait_until(
    deadline: float,
    process: subprocess.Popen[bytes],
    ready: Callable[[], bool],
    name: str,
    log: Path,
) -> None:
    """Poll `ready` until it holds, the process ends or the time is up; raises Unusable."""
    while not ready():
        if process.poll() == NOT_STARTED:
            raise Unusable(f"{name} cannot run: {tail(log)}")
        if process.returncode is not None:
            raise Unusable(
                f"{name} ended with status {process.returncode}: {tail(log)} (see {log})"
            )
        if time.monotonic() > deadline:
            raise Unusable(f"{name} does not answer: {tail(log)} (see {log})")
        time.sleep(0.05)
