"""Jobs on a real node: what they may do, what is left of them, and who survives whom."""

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as scheduler
from loomos.node_agent.outbox import Outbox
from loomos.node_agent.runs import Runs, lease_clock
from loomos.node_agent.workplace import Caps, Place

EXAMPLES = Path(__file__).parents[2] / "examples"
AS_ROOT = os.geteuid() == 0
FORK_BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
LOOK = """
import json, os
def tried(path):
    try:
        return os.listdir(path) if os.path.isdir(path) else open(path).read()
    except OSError as error:
        return type(error).__name__
print(json.dumps({
    "uid": os.getuid(), "environment": dict(os.environ), "home": tried(os.environ["AGENT_HOME"]),
    "processes": [name for name in os.listdir("/proc") if name.isdigit()],
    "descriptors": sorted(os.listdir("/proc/self/fd")),
    "privileges": [line for line in open("/proc/self/status") if line.startswith("NoNewPrivs")],
    "outside": tried("/etc/loomos-job"), "cwd": os.getcwd(),
}))
try:
    open("/etc/loomos-job", "w")
except OSError:
    print("read-only")
"""
REPORTING = """
import json, os, socket
report = socket.socket(socket.AF_UNIX)
report.connect(os.environ["LOOMOS_REPORT"])
for line in (
    '{"type": "metric", "name": "accuracy", "value": NaN}',
    '{"type": "metric", "name": "accuracy", "value": 0.25, "epoch": 1}',
    'x' * 100000,
):
    report.sendall(line.encode() + b"\\n")
report.close()
report = socket.socket(socket.AF_UNIX)
report.connect(os.environ["LOOMOS_REPORT"])
report.sendall(b'{"type": "progress", "epoch": 2, "share": 0.5}\\n')
report.close()
for name in ("plain", "linked", ".unfinished"):
    folder = os.path.join(os.environ["LOOMOS_CHECKPOINT_DIR"], "." + name)
    os.mkdir(folder)
    if name == "linked":
        os.symlink("/etc/passwd", os.path.join(folder, "model"))
    else:
        open(os.path.join(folder, "model"), "w").write(name)
    if name != ".unfinished":
        os.rename(folder, os.path.join(os.environ["LOOMOS_CHECKPOINT_DIR"], name))
open(os.path.join(os.environ["LOOMOS_OUTPUT_DIR"], "result"), "w").write("42")
"""


class Node:
    """A node whose reports are accepted at once."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.outbox = Outbox()
        caps = Caps(log_bytes=64 << 10, disk_bytes=32 << 20, processes=64)
        place = Place(home / "node", home / "artifacts", hide=home, caps=caps)
        self.runs = Runs(place, self.outbox)
        self.runs.extend_lease(lease_clock() + 3600)
        self.reports: list[rm.NodeReport] = []
        self.heard = asyncio.Condition()
        self.task = asyncio.create_task(self._accept())

    async def _accept(self) -> None:
        number = 0
        while True:
            report = await self.outbox.after(number)
            number = report.number
            async with self.heard:
                self.reports.append(report)
                self.heard.notify_all()
            self.outbox.settle(number, "")

    async def until(self, kind: str, count: int = 1) -> rm.NodeReport:
        """The report of this kind, once there are that many."""
        async with self.heard:
            await self.heard.wait_for(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    def of(self, kind: str) -> list[rm.NodeReport]:
        """The reports of this kind."""
        return [report for report in self.reports if report.WhichOneof("report") == kind]

    async def finish(self, order: rm.StartRun) -> scheduler.RunResult:
        """Runs an order to its end."""
        self.runs.start(order)
        return (await self.until("finished")).finished.result

    def log(self, order: rm.StartRun) -> bytes:
        """The log that was kept of a run."""
        return (self.runs.place.run(order.allocation_id) / "job.log").read_bytes()

    async def close(self) -> None:
        """Ends the agent's side and every job."""
        for run in self.runs.runs.values():
            if not run.over:
                run.stop(0)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(run.finished.wait(), 10)
        self.task.cancel()
        await self.runs.close()


def ordered(
    *command: str, allocation: str = "allocation-1", run: int = 1, **inputs: str
) -> rm.StartRun:
    """An order to run a command, with input files `name_py="…"`."""
    spec = scheduler.JobSpec(name="job", command=command)
    spec.resources.memory_bytes = 1 << 30
    for name, content in inputs.items():
        spec.inputs.add(path=name.replace("_", "."), content=content.encode())
    given = rm.RunSpec(job_id="job-local-a", run=run, spec=spec, runtime_seconds_left=100)
    return rm.StartRun(allocation_id=allocation, run=given)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    made = Node(home)
    made.runs.adopt()
    yield made
    await made.close()


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


async def test_a_job_sees_its_contract_and_nothing_of_the_agent(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_SECRET", "not for jobs")
    (node.home / "secret").write_text("not for jobs")
    order = ordered("python", "look.py", look_py=LOOK)
    order.run.spec.env["AGENT_HOME"] = str(node.home)
    order.run.spec.env["LOOMOS_JOB_ID"] = "forged"
    order.run.spec.env["MARK"] = "{work}"
    order.gpu_uuids.append("GPU-1")
    result = await node.finish(order)
    assert result.outcome == scheduler.RUN_OUTCOME_EXITED, node.log(order)
    line, after = node.log(order).splitlines()
    seen = json.loads(line)
    assert after == b"read-only"
    assert seen["home"] in ("PermissionError", "FileNotFoundError", [])
    assert seen["environment"]["LOOMOS_JOB_ID"] == "job-local-a"
    assert seen["environment"]["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert seen["environment"]["MARK"] == "{work}"
    assert "AGENT_SECRET" not in seen["environment"]
    assert seen["privileges"] == ["NoNewPrivs:\t1\n"]
    assert len(seen["descriptors"]) <= 4  # three, and the listing's own
    if AS_ROOT:
        assert seen["uid"] != 0
        assert seen["processes"] == ["2"]
    assert result.log_sha256 == hashlib.sha256(node.log(order)).digest()
    isolation = (await node.until("started")).started.isolation
    assert "no-new-privileges" in isolation.split(",")


async def test_reports_and_checkpoints_are_taken_with_suspicion(node: Node) -> None:
    order = ordered("python", "report.py", report_py=REPORTING)
    result = await node.finish(order)
    assert result.outcome == scheduler.RUN_OUTCOME_EXITED, node.log(order)
    metrics = [metric for report in node.of("progress") for metric in report.progress.metrics]
    assert [(metric.name, metric.value) for metric in metrics] == [("accuracy", 0.25)]
    assert max(report.progress.progress_basis_points for report in node.of("progress")) == 5000
    assert len(node.of("checkpoint")) == 1
    checkpoint = node.of("checkpoint")[0].checkpoint.checkpoint
    kept = node.home / "artifacts" / checkpoint.path
    assert hashlib.sha256((kept / "manifest.json").read_bytes()).digest() == checkpoint.sha256
    assert (kept / "files" / "model").read_text() == "plain"
    output = result.outputs[0]
    assert (node.home / "artifacts" / output.location).read_text() == "42"


@pytest.mark.parametrize(
    ("command", "outcome", "exit_code"),
    [
        (("sh", "-c", "exit 1"), scheduler.RUN_OUTCOME_EXITED, 1),
        (("sh", "-c", "kill -SEGV $$"), scheduler.RUN_OUTCOME_SIGNALLED, 139),
        (("no-such-program",), scheduler.RUN_OUTCOME_START_FAILED, 127),
    ],
)
async def test_how_a_job_ended_is_told(
    node: Node, command: tuple[str, ...], outcome: scheduler.RunOutcome, exit_code: int
) -> None:
    result = await node.finish(ordered(*command))
    assert (result.outcome, result.exit_code) == (outcome, exit_code)


async def test_a_job_without_end_is_ended(node: Node) -> None:
    order = ordered("sh", "-c", "trap '' TERM; (sleep 1000 & sleep 1000)")
    order.run.runtime_seconds_left = 1
    order.run.spec.grace_period_seconds = 1
    result = await node.finish(order)
    assert result.outcome == scheduler.RUN_OUTCOME_LIMIT_EXCEEDED
    assert "longer" in result.detail


async def test_a_gigabyte_of_log_is_cut_and_counted(node: Node) -> None:
    order = ordered("sh", "-c", "head -c 1000000000 /dev/zero; exit 3")
    result = await node.finish(order)
    assert (result.outcome, result.exit_code) == (scheduler.RUN_OUTCOME_EXITED, 3)
    log = node.log(order)
    assert len(log) == result.log_bytes < (64 << 10) + 200
    assert f"{1_000_000_000 - (64 << 10)} bytes of its log were dropped" in result.detail


async def test_a_full_disk_ends_the_job(node: Node) -> None:
    script = "for i in 1 2 3 4; do head -c 16777216 /dev/zero > $i; done; sleep 1000"
    result = await node.finish(ordered("sh", "-c", script))
    assert result.outcome == scheduler.RUN_OUTCOME_LIMIT_EXCEEDED
    assert "disk" in result.detail


@pytest.mark.skipif(not AS_ROOT, reason="only a user of its own can be counted")
async def test_a_fork_bomb_is_contained_and_removed(node: Node) -> None:
    order = ordered("python", "bomb.py", bomb_py=FORK_BOMB)
    node.runs.start(order)
    await node.until("started")
    uid = json.loads((node.runs.place.run(order.allocation_id) / "spec.json").read_bytes())["uid"]
    await asyncio.to_thread(_wait_for, lambda: len(_processes_of(uid)) >= 60)
    assert len(_processes_of(uid)) <= 64
    node.runs.stop(order.allocation_id, 1)
    result = (await node.until("finished")).finished.result
    assert result.outcome == scheduler.RUN_OUTCOME_SIGNALLED
    assert _processes_of(uid) == []


@pytest.mark.timeout(300)  # three processes that import scikit-learn
async def test_a_stopped_job_resumes_to_the_same_bytes(node: Node) -> None:
    script = (EXAMPLES / "train_digits.py").read_text()
    arguments = ("python", "train.py", "--epochs", "30", "--rounds", "8")
    whole = await node.finish(ordered(*arguments, allocation="a-whole", train_py=script))
    first = ordered(*arguments, allocation="a-first", train_py=script)
    node.runs.start(first)
    known = len(node.of("checkpoint"))
    await node.until("checkpoint", known + 1)
    node.runs.stop("a-first", 30)
    stopped = (await node.until("finished", 2)).finished.result
    assert stopped.exit_code == 75, node.log(first)
    second = ordered(*arguments, allocation="a-second", run=2, train_py=script)
    second.run.resume_from.CopyFrom(node.of("checkpoint")[-1].checkpoint.checkpoint)
    node.runs.start(second)
    resumed = (await node.until("finished", 3)).finished.result
    assert b"resumed after epoch" in node.log(second)
    digests = [{file.path: file.sha256 for file in result.outputs} for result in (whole, resumed)]
    assert digests[0].keys() == {"model.npz", "metrics.json"}
    assert digests[0] == digests[1]


async def test_a_changed_checkpoint_is_not_resumed_from(node: Node) -> None:
    await node.finish(ordered("python", "report.py", report_py=REPORTING))
    checkpoint = node.of("checkpoint")[0].checkpoint.checkpoint
    (node.home / "artifacts" / checkpoint.path / "files" / "model").write_text("Plain")
    order = ordered("true", allocation="allocation-2", run=2)
    order.run.resume_from.CopyFrom(checkpoint)
    node.runs.start(order)
    result = (await node.until("finished", 2)).finished.result
    assert result.outcome == scheduler.RUN_OUTCOME_START_FAILED
    assert "was changed" in result.detail


async def test_an_order_is_obeyed_once_and_never_after_a_newer_one(node: Node) -> None:
    assert node.runs.fence(rm.FencingToken(epoch=2, offset=7))
    assert not node.runs.fence(rm.FencingToken(epoch=1, offset=99))
    assert node.runs.fence(rm.FencingToken(epoch=2, offset=7))
    assert Runs(node.runs.place, node.outbox).token == (0, 2, 7)
    order = ordered("true")
    await node.finish(order)
    node.runs.start(order)
    await asyncio.sleep(0)
    assert len(node.of("finished")) == 1
    assert not node.runs.starting


async def test_a_job_ends_with_the_nodes_lease_unless_it_may_survive(node: Node) -> None:
    node.runs.extend_lease(lease_clock() + 2)
    node.runs.start(ordered("sleep", "1000", allocation="a-leased"))
    surviving = ordered("sleep", "1000", allocation="a-surviving")
    surviving.run.spec.survive_disconnect = True
    node.runs.start(surviving)
    await node.until("started", 2)
    finished = (await node.until("finished")).finished
    assert finished.allocation_id == "a-leased"
    assert "lease" in finished.result.detail
    assert [state.allocation_id for state in node.runs.states()] == ["a-surviving"]


async def test_a_killed_agent_leaves_its_jobs_to_the_next_one(
    tmp_path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    order = ordered("sh", "-c", "echo begun; while [ ! -e go ]; do sleep 0.1; done; exit 7")
    order.run.spec.grace_period_seconds = 1
    agent = subprocess.Popen(
        [sys.executable, __file__, str(home), order.SerializeToString().hex()],
        stdout=subprocess.PIPE,
    )
    children.append(agent)
    assert agent.stdout is not None
    assert await asyncio.to_thread(agent.stdout.readline) == b"started\n"
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    agent.stdout.close()
    node = Node(home)
    try:
        node.runs.adopt()
        assert [state.ended for state in node.runs.states()] == [False]
        (node.runs.place.work_of(order.allocation_id) / "input" / "go").touch()
        result = (await node.until("finished")).finished.result
        assert (result.outcome, result.exit_code) == (scheduler.RUN_OUTCOME_EXITED, 7)
        assert node.log(order) == b"begun\n"
    finally:
        await node.close()


async def test_a_killed_shim_takes_its_job_along(node: Node) -> None:
    order = ordered("sh", "-c", "sleep 1000 & sleep 1000")
    node.runs.start(order)
    await node.until("started")
    facts = json.loads((node.runs.place.run(order.allocation_id) / "shim.json").read_bytes())
    os.kill(facts["pid"], signal.SIGKILL)
    result = (await node.until("finished")).finished.result
    assert (result.outcome, result.exit_code) == (scheduler.RUN_OUTCOME_SIGNALLED, 137)
    await asyncio.to_thread(_wait_for, lambda: not Path(f"/proc/{facts['job_pid']}").exists())


def _processes_of(uid: int) -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and process.stat().st_uid == uid:
                found.append(process.name)
    return found


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def _agent(home: Path, order: rm.StartRun) -> None:
    node = Node(home)
    node.runs.start(order)
    await node.until("started")
    print("started", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_agent(Path(sys.argv[1]), rm.StartRun.FromString(bytes.fromhex(sys.argv[2]))))
