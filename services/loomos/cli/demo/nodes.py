"""Chapter 2: three machines become nodes, each by a one-time token of its own.

Two simulate GPUs from a scenario, through the same NVML calls that a real driver answers.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from loomos.cli.demo.agents import Agent
from loomos.cli.demo.stage import Stage, examples, require

__all__ = ["FIRST", "SECOND", "THIRD", "play"]

STEP = 2
FIRST, SECOND, THIRD = "gpu-a", "gpu-b", "cpu-c"
SCENARIOS = {FIRST: "a100x1.scenario", SECOND: "h100x2.scenario", THIRD: ""}
READY_SECONDS = 60.0


def play(stage: Stage) -> None:
    """All three join, and are ready for work."""
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        for agent in pool.map(lambda name: admit(stage, name), SCENARIOS):
            stage.agents[agent.name] = agent
    for agent in stage.agents.values():
        node = ready(stage, agent)
        cards = ", ".join(one["gpu"]["model"] for one in node["gpus"]) or "no GPU"
        told = f"{agent.name} joined as {agent.node_id}: {cards}"
        stage.held(STEP, told, stage.event("node.connected", agent.node_id))


def admit(stage: Stage, name: str) -> Agent:
    """A node with an identity, its agent running."""
    token = said(stage, "node", "token")
    scenario = SCENARIOS[name]
    words = ["node", "join", "--name", name, "--token", token]
    words += ["--label", "kind=gpu" if scenario else "kind=cpu"]
    if scenario:
        words += ["--nvml-scenario", str(examples() / "nvml" / scenario)]
    agent = Agent(stage.home, name, said(stage, *words))
    agent.start()
    return agent


def said(stage: Stage, *words: str) -> str:
    """What a command of `loomos` prints."""
    done = stage.loomos(*words)
    require(done.returncode == 0, f"`loomos {words[0]} {words[1]}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def ready(stage: Stage, agent: Agent) -> Mapping[str, Any]:
    """The node as the resource manager sees it, once it takes work."""

    def look() -> Mapping[str, Any] | None:
        found = stage.admin.call("GET", "/api/v1/nodes")["nodes"]
        fits = [one for one in found if one["node_id"] == agent.node_id]
        return fits[0] if fits and fits[0]["status"] == "NODE_STATUS_READY" else None

    return stage.wait(f"node {agent.name} is not ready", look, READY_SECONDS)
