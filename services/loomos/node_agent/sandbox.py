"""The walls around one job: namespaces, mounts, limits, user, and the parent inside them.

Runs in the shim's child before the job starts; the standard library alone, because the shim is
started without site-packages.

1. Walls that the machine refuses are left out and named: `Walls.names()` is what was reached.
2. With a pid namespace the child is its pid 1, so its death takes every descendant along;
   without one it is a subreaper and kills what is left until nothing is.
3. With a mount namespace the file system is read-only but for /tmp, which is the job's work
   folder; hidden paths are empty; an interpreter that the job's user could not reach is shown.
4. The job starts with three descriptors, no privileges it could regain, and its own session.
"""

import ctypes
import errno
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
SYS_MOUNT_SETATTR = 442
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
SEEN_WORK = "/tmp"  # noqa: S108 - private to the job: its work folder is mounted there
SHARED_MEMORY, SHARED_MEMORY_BYTES = "/dev/shm", 256 << 20  # noqa: S108 - the mount point itself

_libc = ctypes.CDLL(None, use_errno=True)


class Limits(NamedTuple):
    """What one job may use at most; 0 means unlimited where that makes sense."""

    processes: int
    open_files: int
    file_bytes: int
    address_space_bytes: int


class Walls(NamedTuple):
    """Which walls stand around the job."""

    uid: int | None
    """The job's own user; None means that it shares the agent's."""
    pid_namespace: bool
    mount_namespace: bool

    def names(self) -> list[str]:
        """The walls by name, sorted, for the record."""
        standing = {
            "own-user": self.uid is not None,
            "pid-namespace": self.pid_namespace,
            "read-only-files": self.mount_namespace,
            "no-new-privileges": True,
            "rlimits": True,
        }
        return sorted(name for name, stands in standing.items() if stands)


def enter_pid_namespace(uid: int | None) -> Walls:
    """Puts the next child into a pid namespace of its own, where this machine allows it."""
    user, group = os.getuid(), os.getgid()
    flags = CLONE_NEWPID if user == 0 else CLONE_NEWPID | CLONE_NEWUSER
    if _libc.unshare(flags) != 0:
        return Walls(uid, pid_namespace=False, mount_namespace=False)
    if user != 0:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    return Walls(uid, pid_namespace=True, mount_namespace=False)


def enter_mount_namespace(walls: Walls) -> Walls:
    """Gives this process mounts of its own, where it has a pid namespace and may."""
    if not walls.pid_namespace or _libc.unshare(CLONE_NEWNS) != 0:
        return walls
    _mount("none", "/", None, MS_REC | MS_PRIVATE)
    return walls._replace(mount_namespace=True)


def arrange_files(work: str, hide: list[str], expose: list[str], uid: int | None) -> None:
    """Shows the job a read-only file system whose /tmp is its work folder."""
    hidden = {os.path.realpath(path) for path in hide if os.path.isdir(path)}
    shown = [path for path in map(os.path.realpath, expose) if os.path.isdir(path)]
    if uid is not None:
        hidden |= {wall for path in shown if (wall := _first_closed_parent(path))}
    covered = {*hidden, SEEN_WORK}
    hidden = {path for path in hidden if not any(_inside(path, other) for other in covered)}
    lost = [path for path in shown if any(_inside(path, other) for other in covered)]
    held = {path: os.open(path, os.O_PATH | os.O_DIRECTORY) for path in sorted({*lost, work})}
    os.umask(0o022)
    for path in sorted(hidden):
        _mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    for path, descriptor in sorted(held.items(), key=lambda item: item[0] != work):
        target = SEEN_WORK if path == work else path
        os.makedirs(target, mode=0o755, exist_ok=True)
        _mount(f"/proc/self/fd/{descriptor}", target, None, MS_BIND | MS_REC)
        os.close(descriptor)
    shared_memory = os.path.isdir(SHARED_MEMORY)
    if shared_memory:
        options = f"mode=1777,size={SHARED_MEMORY_BYTES}"
        _mount("tmpfs", SHARED_MEMORY, "tmpfs", MS_NOSUID | MS_NODEV, options)
    # Refused where a container masks parts of /proc: the old one then shows pids of strangers,
    # whose files still belong to other users.
    _libc.mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, b"hidepid=2")
    _set_attributes("/", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, AT_RECURSIVE)
    _set_attributes(SEEN_WORK, MOUNT_ATTR_NODEV, MOUNT_ATTR_RDONLY, 0)
    if shared_memory:
        _set_attributes(SHARED_MEMORY, 0, MOUNT_ATTR_RDONLY, 0)


def join_parent(life: int, walls: Walls) -> None:
    """Ties this process to its parent's life; only the parent holds the pipe `life` open."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if not walls.pid_namespace:
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
    os.set_blocking(life, False)
    try:
        if os.read(life, 1) == b"":
            os._exit(1)  # the parent was gone before the signal was asked for
    except BlockingIOError:
        pass


def become_job(
    argv: list[str], environment: dict[str, str], work: str, log: int, limits: Limits, walls: Walls
) -> None:
    """Turns this process into the job; returns only by raising OSError."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    _set_limits(limits)
    _raise_oom_score()
    if walls.uid is not None:
        os.setgroups([])
        os.setresgid(walls.uid, walls.uid, walls.uid)
        os.setresuid(walls.uid, walls.uid, walls.uid)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    # The kernel clears it when the user changes; a job must not outlive its parent inside.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.umask(0o077)
    os.chdir(work)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    os.execvpe(argv[0], argv, environment)  # noqa: S606 - no shell is wanted


def guard(job: int, told: Callable[[int, resource.struct_rusage], None], walls: Walls) -> None:
    """The parent inside: passes SIGTERM on, buries orphans, tells the end, leaves no child."""

    def pass_on(number: int, _frame: object) -> None:
        for target in (os.killpg, os.kill):
            try:
                target(job, number)
                return
            except OSError:
                continue  # the group is not there yet, or everything is gone

    def kill_all(_number: int, _frame: object) -> None:
        kill_descendants(walls)

    signal.signal(signal.SIGTERM, pass_on)
    if not walls.pid_namespace:
        signal.signal(signal.SIGUSR1, kill_all)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    while True:
        pid, status, used = os.wait3(0)
        if pid == job:
            kill_descendants(walls)
            told(status, used)
            return


def kill_descendants(walls: Walls) -> None:
    """Ends every process that this one started, directly or not."""
    if walls.pid_namespace:
        if os.getpid() == 1:
            _kill_everything_we_may()
        return
    if walls.uid is not None:
        child = os.fork()
        if child == 0:
            os.setresuid(walls.uid, walls.uid, walls.uid)
            _kill_everything_we_may()
            os._exit(0)
        os.waitpid(child, 0)
        return
    deadline = time.monotonic() + 10
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except OSError:
                continue  # it went by itself, or is not ours to bury yet


def _kill_everything_we_may() -> None:
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return


def descendants(root: int) -> list[int]:
    """Every process below this one."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        children: list[int] = []
        parent = waiting.pop()
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as file:
                    children += map(int, file.read().split())
        except OSError:
            continue  # it went by itself
        found += children
        waiting += children
    return found


def _set_limits(limits: Limits) -> None:
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: limits.processes,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_AS: limits.address_space_bytes or resource.RLIM_INFINITY,
    }
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = hard if value == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _raise_oom_score() -> None:
    """When memory runs out the kernel takes the job before the agent."""
    try:
        _write("/proc/self/oom_score_adj", "500")
    except OSError:
        return  # /proc may be read-only here; the order of victims is then the kernel's


def _first_closed_parent(path: str) -> str:
    """The outermost parent of `path` that strangers may not pass, or ""."""
    parts = path.split("/")[1:]
    for depth in range(1, len(parts) + 1):
        parent = "/" + "/".join(parts[:depth])
        if not os.stat(parent).st_mode & 0o001:
            return parent
    return ""


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder + "/")


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "fd"))


def _set_attributes(path: str, add: int, clear: int, flags: int) -> None:
    wanted = _MountAttributes(add, clear, 0, 0)
    size = ctypes.sizeof(wanted)
    if _libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, ctypes.byref(wanted), size):
        _fail(f"mount_setattr {path}")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    name = kind.encode() if kind else None
    if _libc.mount(source.encode(), target.encode(), name, flags, options.encode() or None):
        _fail(f"mount {target}")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0):
        _fail(f"prctl {option}")


def _fail(what: str) -> None:
    number = ctypes.get_errno() or errno.EIO
    raise OSError(number, f"{what}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
