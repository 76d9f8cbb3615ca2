"""Damages files in every way that a disk, an accident or an enemy has, and mends them again."""

import os
import shutil
import signal
from contextlib import contextmanager

SPARSE_BYTES = 10 << 30
NOTHING_HANGS_S = 60
"""No bound on speed: what waits for ever, e.g. for the other end of a FIFO, ends loudly."""


class Hangs(BaseException):
    """What is tested waits for something that never comes."""


def flip(path, at=None):
    whole = bytearray(path.read_bytes())
    at = len(whole) * 4 if at is None else at
    whole[at // 8] ^= 1 << at % 8
    path.write_bytes(whole)


def cut(path, left=None):
    os.truncate(path, path.stat().st_size // 2 if left is None else left)


def append(path, more=b"\x00\x01garbage\xff"):
    path.write_bytes(path.read_bytes() + more)


def empty(path):
    path.write_bytes(b"")


def rubbish(path):
    path.write_bytes(b"\xff\xfe\x80" * 50)


def deep(path):
    path.write_bytes(b"[" * 200_000)


def delete(path):
    path.unlink()


def folder(path):
    path.unlink()
    path.mkdir()


def fifo(path):
    path.unlink()
    os.mkfifo(path)


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere")


def loop(path):
    path.unlink()
    path.symlink_to(path.name)


def endless(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def sparse(path):
    os.truncate(path, SPARSE_BYTES)


def holes(path):
    path.write_bytes(b"")
    os.truncate(path, SPARSE_BYTES)


WAYS = (
    flip, cut, append, empty, rubbish, deep, delete,
    folder, fifo, dangling, loop, endless, sparse, holes,
)  # fmt: skip


@contextmanager
def damaged(path, way, *how):
    """The file after this damage; afterwards it is as it was, and nothing has hung meanwhile."""
    kept = path.with_name(f"{path.name}.kept")
    mode = path.stat().st_mode
    path.chmod(0o600)
    shutil.copy2(path, kept)
    try:
        way(path, *how)
        with in_time():
            yield
    finally:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        kept.rename(path)
        path.chmod(mode)


@contextmanager
def swapped(one, other):
    """Two files that have changed places."""
    between = one.with_name(f"{one.name}~between")

    def exchange():
        one.rename(between)
        other.rename(one)
        between.rename(other)

    exchange()
    try:
        with in_time():
            yield
    finally:
        exchange()


@contextmanager
def in_time():
    def ring(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(NOTHING_HANGS_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
