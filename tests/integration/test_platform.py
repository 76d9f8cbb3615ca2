"""`loomos up` to `loomos down`, as an operator meets them: real processes, one home."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.processes import loomos

from loomos.embedded.home import LAYOUT

pytestmark = pytest.mark.timeout(240)
SERVICE = "runtime"
WAIT_SECONDS = 60


class Operator:
    """Somebody at a terminal, with a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = {"LOOMOS_HOME": str(home), "LOOMOS_SERVICES": SERVICE}

    def says(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `loomos` to its end."""
        return loomos(self.environ | more, *words)

    def state(self) -> dict:
        """What the supervisor says."""
        return json.loads((self.home / "state.json").read_bytes())

    def family(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        supervisor = psutil.Process(self.state()["supervisor"]["pid"])
        return [supervisor, *supervisor.children(recursive=True)]

    def waits(self, until: Callable[[], bool]) -> None:
        """Look again and again until it is so."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not until():
            assert time.monotonic() < deadline, self.says("status").stdout
            time.sleep(0.1)


@pytest.fixture
def operator(tmp_path):
    someone = Operator(tmp_path / "home")
    yield someone
    someone.says("down")


def gone(family: list[psutil.Process]) -> bool:
    """True when none of these runs; an init that does not reap leaves zombies."""
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                return False
    return True


def test_up_kill_up_and_down(operator):
    started = operator.says("up", "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    assert operator.says("status").returncode == 0
    before = operator.state()

    again = operator.says("up", "--detach")
    assert again.returncode == 0
    assert "already runs" in again.stderr
    assert operator.state() == before

    # A service killed alone comes back in the same place.
    service = before["services"][SERVICE]
    os.kill(service["pid"], signal.SIGKILL)
    operator.waits(
        lambda: (
            operator.state()["services"][SERVICE]["pid"] not in (0, service["pid"])
            and operator.state()["services"][SERVICE]["healthy"]
        )
    )
    assert operator.state()["services"][SERVICE]["address"] == service["address"]

    # What all services are forked from dies, and they with it.
    supervisor = psutil.Process(before["supervisor"]["pid"])
    zygote = next(one for one in supervisor.children() if "zygote" in " ".join(one.cmdline()))
    pid = operator.state()["services"][SERVICE]["pid"]
    zygote.kill()
    operator.waits(
        lambda: (
            operator.state()["services"][SERVICE]["pid"] not in (0, pid)
            and operator.state()["services"][SERVICE]["healthy"]
        )
    )

    # The supervisor dies: so does all below it, and `up` goes on where it was.
    family = operator.family()
    supervisor.kill()
    operator.waits(lambda: gone(family))
    started = operator.says("up", "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    assert operator.state()["kafka"]["bootstrap"] == before["kafka"]["bootstrap"]

    family = operator.family()
    assert operator.says("down").returncode == 0
    operator.waits(lambda: gone(family))
    assert not (operator.home / "state.json").exists()
    assert operator.says("status").returncode == 1


def test_what_hinders_a_start_is_one_line_and_nothing_is_left(operator, tmp_path):
    def hindered(*, home: Path, **more: str) -> str:
        ended = operator.says("up", "--detach", LOOMOS_HOME=str(home), **more)
        assert ended.returncode == 1
        errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 1, ended.stderr
        assert not (home / "state.json").exists()
        return errors[0]

    file = tmp_path / "file"
    file.write_text("x")
    assert "is not writable" in hindered(home=file)

    old = tmp_path / "old"
    old.mkdir()
    (old / "version").write_text(LAYOUT.replace("1", "0"))
    assert "data of another version" in hindered(home=old)

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    assert "no LoomOS home" in hindered(home=foreign)
    assert [one.name for one in foreign.iterdir()] == ["thesis.txt"]

    assert "'nobody'" in hindered(home=tmp_path / "new", LOOMOS_SERVICES="nobody")


def test_a_taken_port_is_named(operator):
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        operator.home.mkdir()
        (operator.home / "version").write_text(LAYOUT)
        (operator.home / "ports.json").write_text(json.dumps({"postgres": port}))
        ended = operator.says("up", "--detach")
    assert ended.returncode == 1
    assert f"port {port} (postgres) is taken" in ended.stderr.replace("\n", " ")
