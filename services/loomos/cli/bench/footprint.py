"""`loomos bench footprint`: what an idle platform takes of a machine.

1. All processes count: supervisor, stores, services, agents, the served model's worker.
2. Memory is the sum of proportional set sizes, so what processes share counts once.
3. CPU is measured over a minute that begins a minute after everything was healthy.
"""

import time
from pathlib import Path

import psutil

from loomos.cli.bench.fleet import Fleet
from loomos.cli.bench.report import Report, single
from loomos.cli.demo import jobs, nodes

__all__ = ["measure"]

BENCH = "footprint"
TRAINING = ("--epochs", "3", "--rounds", "2", "--seed", "7")
SETTLE_SECONDS = 60.0
MEASURED_SECONDS = 60.0
MODEL_SECONDS = 120.0
GIBIBYTE = 2**30


def measure(report: Report, platform: Fleet) -> None:
    """All rows, then where the CPU went."""
    report.add(single(BENCH, "warm_up", [platform.warm_up_seconds], "s"))
    for name in nodes.SCENARIOS:
        platform.join(name)
    report.say("three agents are ready; a model is trained and served")
    serve_model(platform)
    report.say(f"nothing happens for {SETTLE_SECONDS:.0f} s, then {MEASURED_SECONDS:.0f} s count")
    time.sleep(SETTLE_SECONDS)
    before = cpu_seconds(platform)
    time.sleep(MEASURED_SECONDS)
    after = cpu_seconds(platform)
    spent = {name: (after[pid, name] - before.get((pid, name), 0.0)) for pid, name in sorted(after)}
    report.add(single(BENCH, "cpu", [100 * sum(spent.values()) / MEASURED_SECONDS], "% of a core"))
    report.add(single(BENCH, "memory", [memory_bytes(platform) / GIBIBYTE], "GiB"))
    for name, seconds in sorted(spent.items(), key=lambda one: -one[1]):
        report.say(f"{100 * seconds / MEASURED_SECONDS:6.2f} % {name}")


def serve_model(platform: Fleet) -> None:
    """A model of a short training, deployed by policy."""
    model = {"model_name": jobs.MODEL, "plugin": "sklearn-linear"}
    job = jobs.spec("digits", "train_digits.py", TRAINING, register_model=model)
    jobs.finished(jobs.submit(platform.stage, "training", job), MODEL_SECONDS)
    platform.stage.event("deployment.activated", seconds=MODEL_SECONDS)


def processes(platform: Fleet) -> list[psutil.Process]:
    """Every process of the platform and of its nodes."""
    supervisor = int((platform.stage.home / "supervisor.pid").read_text().split()[0])
    roots = [psutil.Process(supervisor)]
    for agent in platform.stage.agents.values():
        assert agent.process is not None
        roots += [psutil.Process(agent.process.pid), *agent.jobs()]
    found = {one.pid: one for root in roots for one in (root, *root.children(recursive=True))}
    return list(found.values())


def cpu_seconds(platform: Fleet) -> dict[tuple[int, str], float]:
    """What each process has used, with that of its children that ended."""
    found = {}
    for one in processes(platform):
        used = one.cpu_times()
        ended = used.children_user + used.children_system
        found[one.pid, f"{one.name()} {one.pid}"] = used.user + used.system + ended
    return found


def memory_bytes(platform: Fleet) -> int:
    """The sum of the proportional set sizes."""
    return sum(pss_bytes(one.pid) for one in processes(platform))


def pss_bytes(pid: int) -> int:
    """A process's proportional set size."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
