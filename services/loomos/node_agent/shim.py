"""The small process that stands between the agent and one job, and outlives the agent.

Started as `python -I -S`, standard library only, for one run or to wait until it is told which
(`spare.py`). It reads `spec.json` in its state folder and
leaves there `shim.json` (who runs, behind which walls), `job.log`, `reports.jsonl` and, last,
`exit.json`; the agent, or its successor, reads them.

1. SIGTERM asks the job to checkpoint and end; after the grace period everything is killed. The
   death of the shim itself kills the job.
2. When the node's lease is over the job is stopped, also if the agent is dead; a job that may
   survive that is given no lease.
3. Log and reports stop growing at their caps; what comes after is counted and dropped, so a job
   is never blocked by its own talk.
4. `exit.json` is written once, durably, when no process of the job is left.
"""

import contextlib
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
from typing import Any

from loomos.node_agent import sandbox
from loomos.node_agent.capped import Capped
from loomos.node_agent.state_file import show, write_durably

READ_BYTES = 1 << 16
LINE_BYTES_MAX = 4096
CONNECTIONS_MAX = 16
FILES_MAX = 200_000
DRAIN_SECONDS = 5
LEASE_GRACE_SECONDS = 1
# Stands in arguments and environment for the work folder as the job will see it; a NUL, because
# nothing that a user may write there can hold one.
WORK_MARK = "\0"
CUT = b"\n[the log's limit is reached; what follows is counted, not kept]\n"


class Shim:
    """One job's life, from spec to exit record."""

    def __init__(self, state: str) -> None:
        with open(os.path.join(state, "spec.json"), encoding="utf-8") as file:
            self.spec: dict[str, Any] = json.load(file)
        self.state = state
        self.work: str = self.spec["work"]
        self.selector = selectors.DefaultSelector()
        self.log = Capped(os.path.join(state, "job.log"), self.spec["log_bytes_max"], CUT)
        self.reports = Capped(
            os.path.join(state, "reports.jsonl"), self.spec["report_bytes_max"], b""
        )
        self.partial: dict[socket.socket, bytes] = {}
        self.verdict = ""
        self.ended: dict[str, Any] | None = None
        self.kill_at = float("inf")
        self.told = b""

    def run(self) -> None:
        """Starts the job, watches it to its end and writes the exit record."""
        # Held back, not lost, until whoever must act on it can.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self.started_at_us = time.time_ns() // 1000
        self._listen()
        self.walls = sandbox.enter_pid_namespace(self.spec["uid"])
        self._start()
        self._watch_signals()
        show(
            os.path.join(self.state, "shim.json"),
            {
                "pid": os.getpid(),
                "job_pid": self.child,
                "start_ticks": start_ticks(os.getpid()),
                "started_at_us": self.started_at_us,
                "walls": self.walls.names(),
            },
        )
        if os.path.exists(os.path.join(self.state, "stop.json")):
            self._obey_stop()  # asked for before anybody could know our pid
        self._watch()
        self._finish()

    def _listen(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Bound by a relative name: the full path may be longer than a socket address.
        os.chdir(self.work)
        self.listener.bind("report.sock")
        os.chmod("report.sock", 0o600)
        if self.spec["uid"] is not None:
            os.chown("report.sock", self.spec["uid"], self.spec["uid"])
        os.chdir("/")
        self.listener.listen(CONNECTIONS_MAX)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)

    def _start(self) -> None:
        log_read, log_write = os.pipe()
        self.status_read, status_write = os.pipe()
        life_read, self.life = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            with contextlib.suppress(OSError):
                os.close(self.life)
                self._inside(log_write, status_write, life_read)
            os._exit(1)
        for descriptor in (log_write, status_write, life_read):
            os.close(descriptor)
        # The first line tells that the walls stand, or why not.
        self.told = os.read(self.status_read, READ_BYTES)
        if b'"mount_namespace": true' in self.told:
            self.walls = self.walls._replace(mount_namespace=True)
        actions = {log_read: self._read_log, self.status_read: self._read_status}
        for descriptor, action in actions.items():
            os.set_blocking(descriptor, False)
            self.selector.register(descriptor, selectors.EVENT_READ, action)

    def _inside(self, log: int, status: int, life: int) -> None:
        """The child: pid 1 of the job's namespace where there is one."""

        def tell(**facts: Any) -> None:
            os.write(status, json.dumps(facts).encode() + b"\n")

        def told(code: int, used: resource.struct_rusage) -> None:
            signalled = os.WIFSIGNALED(code)
            tell(
                exit_code=0 if signalled else os.WEXITSTATUS(code),
                signal=os.WTERMSIG(code) if signalled else 0,
                cpu_microseconds=int((used.ru_utime + used.ru_stime) * 1e6),
                memory_bytes_peak=used.ru_maxrss * 1024,
            )

        seen = self.work
        try:
            sandbox.join_parent(life, self.walls)
            self.walls = sandbox.enter_mount_namespace(self.walls)
            if self.walls.mount_namespace:
                sandbox.arrange_files(
                    self.work, self.spec["hide"], self.spec["expose"], self.spec["uid"]
                )
                seen = sandbox.SEEN_WORK
            tell(mount_namespace=self.walls.mount_namespace)
            job = os.fork()
            if job == 0:
                self._become_job(seen, log, tell)
        except OSError as error:
            tell(error=f"the job's walls cannot be raised: {error}")
            return
        os.close(log)
        sandbox.guard(job, told, self.walls)

    def _become_job(self, seen: str, log: int, tell: Any) -> None:
        environment = {
            name: value.replace(WORK_MARK, seen) for name, value in self.spec["environment"].items()
        }
        argv = [part.replace(WORK_MARK, seen) for part in self.spec["argv"]]
        try:
            limits = sandbox.Limits(**self.spec["limits"])
            sandbox.become_job(argv, environment, f"{seen}/input", log, limits, self.walls)
        except (OSError, ValueError) as error:
            tell(error=f"{argv[0]!r} cannot be started: {error}")
        finally:
            os._exit(127)

    def _watch_signals(self) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write)
        signal.signal(signal.SIGTERM, lambda *_: None)
        self.selector.register(wake_read, selectors.EVENT_READ, self._read_signals)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _watch(self) -> None:
        maximum = self.spec["runtime_seconds_max"]
        over_at = time.monotonic() + maximum if maximum else float("inf")
        look_at = time.monotonic() + 0.5
        lease_at = time.monotonic() + self._lease_seconds_left()
        while self.ended is None:
            now = time.monotonic()
            if now >= self.kill_at:
                self._kill()
            if now >= over_at:
                over_at = float("inf")
                self._stop("runtime_exceeded")
            if now >= lease_at:
                lease_at = now + self._lease_seconds_left()
                if lease_at <= now:
                    lease_at = float("inf")
                    self._stop("lease_ended", grace_seconds=LEASE_GRACE_SECONDS)
            if now >= look_at:
                if self._memory_is_over():
                    self._stop("memory_exceeded", grace_seconds=0)
                if self._disk_is_over():
                    self._stop("disk_exceeded", grace_seconds=0)
                look_at = time.monotonic() + max(1.0, 20 * (time.monotonic() - now))
            wake_at = min(look_at, lease_at, over_at, self.kill_at)
            self._dispatch(wake_at - time.monotonic())
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.selector.get_map() and self._log_is_open() and time.monotonic() < deadline:
            self._dispatch(0.2)

    def _dispatch(self, timeout_seconds: float) -> None:
        for key, _ in self.selector.select(max(0.0, timeout_seconds)):
            key.data(key.fileobj)

    def _log_is_open(self) -> bool:
        return any(key.data == self._read_log for key in self.selector.get_map().values())

    def _stop(self, verdict: str, grace_seconds: float | None = None) -> None:
        grace = self.spec["grace_seconds"] if grace_seconds is None else grace_seconds
        self.kill_at = min(self.kill_at, time.monotonic() + grace)
        if self.verdict:
            return  # asked before: a second SIGTERM could disturb the checkpoint being written
        self.verdict = verdict
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGTERM)

    def _kill(self) -> None:
        self.kill_at = time.monotonic() + 1
        # Without a pid namespace the child must live on to kill what is left of the job.
        number = signal.SIGKILL if self.walls.pid_namespace else signal.SIGUSR1
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, number)

    def _read_signals(self, descriptor: int) -> None:
        os.read(descriptor, 64)
        self._obey_stop()

    def _obey_stop(self) -> None:
        try:
            with open(os.path.join(self.state, "stop.json"), encoding="utf-8") as file:
                grace_seconds = float(json.load(file)["grace_seconds"])
        except (OSError, ValueError):
            grace_seconds = None
        self._stop("stopped", grace_seconds)

    def _read_log(self, descriptor: int) -> None:
        for _ in range(64):
            try:
                data = os.read(descriptor, READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self.selector.unregister(descriptor)
                os.close(descriptor)
                return
            self.log.add(data)

    def _read_status(self, descriptor: int) -> None:
        data = os.read(descriptor, READ_BYTES)
        self.told += data
        if data:
            return
        self.selector.unregister(descriptor)
        os.close(descriptor)
        os.waitpid(self.child, 0)
        facts: dict[str, Any] = {}
        for line in self.told.splitlines():
            facts |= json.loads(line)
        if "exit_code" not in facts and "error" not in facts:
            facts = {"exit_code": 0, "signal": signal.SIGKILL}
        self.ended = facts

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        if len(self.partial) >= CONNECTIONS_MAX:
            connection.close()
            return
        connection.setblocking(False)
        self.partial[connection] = b""
        self.selector.register(connection, selectors.EVENT_READ, self._read_report)

    def _read_report(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, rest = (self.partial[connection] + data).split(b"\n")
        for line in lines:
            if len(line) <= LINE_BYTES_MAX:
                self.reports.add(line + b"\n")
            else:
                self.reports.dropped_bytes += len(line)
        if data and len(rest) <= LINE_BYTES_MAX:
            self.partial[connection] = rest
            return
        # The end, or a line without end: either way there is nothing more to be had here.
        self.reports.dropped_bytes += len(rest)
        self.selector.unregister(connection)
        del self.partial[connection]
        connection.close()

    def _lease_seconds_left(self) -> float:
        """How long the node may not be declared lost and the job be placed elsewhere."""
        path = self.spec["lease"]
        if not path:
            return float("inf")
        try:
            with open(path, encoding="ascii") as file:
                return float(file.read()) - time.clock_gettime(time.CLOCK_BOOTTIME)
        except (OSError, ValueError):
            return 0.0

    def _memory_is_over(self) -> bool:
        """Shared pages are weighed only when the cheap sum, which counts them twice, is over."""
        maximum = self.spec["memory_bytes_max"]
        if not maximum:
            return False
        pids = sandbox.descendants(self.child)
        page = os.sysconf("SC_PAGESIZE")
        if sum(_number(f"/proc/{pid}/statm", 1) for pid in pids) * page <= maximum:
            return False
        return sum(_number(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in pids) << 10 > maximum

    def _disk_is_over(self) -> bool:
        used, files, folders = 0, 0, [self.work]
        while folders:
            with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        used += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                    files += 1
                    if files > FILES_MAX or used > self.spec["disk_bytes_max"]:
                        return True
        return False

    def _finish(self) -> None:
        for connection in self.partial:
            connection.close()
        self.listener.close()
        ended = self.ended or {}
        record = {
            "verdict": "start_failed" if "error" in ended else self.verdict or "exited",
            "error": ended.get("error", ""),
            "exit_code": ended.get("exit_code", 127),
            "signal": ended.get("signal", 0),
            "cpu_microseconds": ended.get("cpu_microseconds", 0),
            "memory_bytes_peak": ended.get("memory_bytes_peak", 0),
            "started_at_us": self.started_at_us,
            "finished_at_us": time.time_ns() // 1000,
            "log_bytes": self.log.kept_bytes,
            "log_bytes_dropped": self.log.dropped_bytes,
            "log_sha256": self.log.close(),
            "report_bytes_dropped": self.reports.dropped_bytes,
            "walls": self.walls.names(),
        }
        self.reports.close()
        write_durably(os.path.join(self.state, "exit.json"), record)


def _number(path: str, where: int | str) -> int:
    """A number in a file of /proc: the nth word, or the one after a word; 0 if the process went."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            words = file.read().split()
        return int(words[where if isinstance(where, int) else words.index(where) + 1])
    except (OSError, ValueError, IndexError):
        return 0


def start_ticks(pid: int) -> str:
    """When this process started, in ticks of this boot: tells it from a later namesake."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        ticks = file.read().rpartition(")")[2].split()[19]
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return f"{ticks}@{file.read().strip()}"


def main() -> None:
    """Runs the job of the state folder named on the command line, or told later."""
    # Whatever the agent had open is none of the job's business.
    os.closerange(3, 1 << 20)
    os.umask(0o077)
    os.chdir("/")
    folder = sys.argv[1]
    Shim(_told() if folder.endswith("/") else folder).run()


def _told() -> str:
    """The folder that a waiting shim is told; ends this process where its agent is gone."""
    folder = b""
    while data := os.read(0, READ_BYTES):
        folder += data
    if not folder:
        sys.exit()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    errors = os.path.join(os.fsdecode(folder), "shim.err")
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    os.closerange(3, 64)
    return os.fsdecode(folder)
