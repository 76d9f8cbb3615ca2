"""A run of chaos or soak that is told to end leaves no process, no mount and no folder."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.bus, pytest.mark.db, pytest.mark.timeout(400)]

CHAOS = ["chaos", "log", "--only", "owner killed"]
SOAK = ["soak"]


@pytest.mark.parametrize(
    ("command", "until", "number"),
    [
        (CHAOS, "did", signal.SIGINT),
        (CHAOS, "did", signal.SIGTERM),
        (SOAK, "begin", signal.SIGTERM),
        (SOAK, "fault", signal.SIGTERM),
    ],
)
def test_a_signal_ends_a_run_and_leaves_nothing(command, until, number, tmp_path):
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    argv = [sys.executable, "-m", "loomos.cli.main", *command, "--minutes", "5", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environ) as run:
        try:
            facts = map(json.loads, run.stdout or ())
            assert next(one for one in facts if one["what"] == until)
            run.send_signal(number)
            run.send_signal(number)
            last = list(facts)[-1]
            assert run.wait() == 130
        finally:
            run.kill()
    assert (last["what"], last["by"]) == ("ended", number.name)
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert not [one for one in psutil.process_iter() if str(tmp_path) in told(one)]


def told(process: psutil.Process) -> str:
    """Where a process is at work, and on what."""
    try:
        return " ".join([process.cwd(), *process.cmdline()])
    except psutil.Error:
        return ""
