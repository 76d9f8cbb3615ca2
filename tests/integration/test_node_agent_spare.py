"""A shim that waits for its run: who takes it, who ends it, and what is done without it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as scheduler
from loomos.node_agent import workplace
from loomos.node_agent.outbox import Outbox
from loomos.node_agent.run import Run
from loomos.node_agent.runs import lease_clock
from loomos.node_agent.spare import Spare
from loomos.node_agent.workplace import Place

HOLDER = """
import sys, time
from pathlib import Path
from loomos.node_agent.spare import Spare
spare = Spare(Path(sys.argv[1]))
spare.prepare()
print(spare.pid, flush=True)
time.sleep(1000)
"""
LOOK = "import json, os; print(json.dumps(sorted(os.listdir('/proc/self/fd'))))"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    home = tmp_path / "home"
    (home / "node" / "runs").mkdir(parents=True)
    made = Place(home / "node", home / "artifacts", hide=home)
    made.lease.write_text(str(lease_clock() + 3600))
    return made


@pytest.fixture
def spare(place: Place) -> Iterator[Spare]:
    made = Spare(place.folder / "runs")
    yield made
    made.close()


def prepared(place: Place, number: int, *command: str) -> Run:
    """A run that can be launched."""
    spec = scheduler.JobSpec(name="job", command=command)
    given = rm.RunSpec(job_id="job-local-a", run=1, spec=spec, runtime_seconds_left=100)
    order = rm.StartRun(allocation_id=f"allocation-{number}", run=given)
    return Run(place, workplace.prepare(place, order), Outbox())


def ended(run: Run) -> dict[str, object]:
    """The exit record of a launched run."""
    os.waitpid(run.child, 0)
    return json.loads((run.folder / "exit.json").read_bytes())


def test_the_spare_becomes_the_shim_of_the_run_that_is_told(place: Place, spare: Spare) -> None:
    spare.prepare()
    spare.prepare()
    waiting = spare.pid
    first = prepared(place, 1, sys.executable, "-c", LOOK)
    first.launch(spare)
    assert first.child == waiting
    assert ended(first)["verdict"] == "exited"
    assert json.loads((first.folder / "shim.json").read_bytes())["pid"] == waiting
    # The descriptor of the listing itself is the fourth.
    descriptors = json.loads((first.folder / "job.log").read_bytes())
    assert descriptors == ["0", "1", "2", "3"]

    second = prepared(place, 2, "true")
    second.launch(spare)
    assert second.child not in (0, waiting)
    assert ended(second)["exit_code"] == 0


def test_a_spare_that_was_killed_is_not_missed(place: Place, spare: Spare) -> None:
    spare.prepare()
    killed = spare.pid
    os.kill(killed, signal.SIGKILL)
    os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
    run = prepared(place, 1, "true")
    run.launch(spare)
    assert run.child != killed
    assert ended(run)["exit_code"] == 0


def test_a_spare_ends_with_its_agent(place: Place) -> None:
    agent = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place.folder / "runs")], stdout=subprocess.PIPE
    )
    assert agent.stdout is not None
    with agent.stdout:
        spare = int(agent.stdout.readline())
    agent.kill()
    agent.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{spare}/cmdline").exists() and Path(f"/proc/{spare}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
