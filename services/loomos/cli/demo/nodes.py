"""Chapter 2: three machines become nodes, each by a one-time token of its own.

Two simulate GPUs from a scenario, through the same NVML calls that a real driver answers.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loomos.cli.demo.agents import Agent
from loomos.cli.demo.people import secret_pair
from loomos.cli.demo.stage import NotHeld, Stage, examples
from loomos.node_agent.join import JoinFailed, join

__all__ = ["FIRST", "SECOND", "THIRD", "play"]

STEP = 2
FIRST, SECOND, THIRD = "gpu-a", "gpu-b", "cpu-c"
SCENARIOS = {FIRST: "a100x1.scenario", SECOND: "h100x2.scenario", THIRD: ""}
READY_SECONDS = 40.0


def play(stage: Stage) -> None:
    """All three join, and are ready for work."""
    for name, scenario in SCENARIOS.items():
        path = examples() / "nvml" / scenario if scenario else None
        agent = Agent(stage.home, name, "gpu" if path else "cpu", path)
        agent.node_id = asyncio.run(admit(stage, agent))
        agent.start()
        stage.agents[name] = agent
    for agent in stage.agents.values():
        node = ready(stage, agent)
        cards = ", ".join(one["gpu"]["model"] for one in node["gpus"]) or "no GPU"
        told = f"{agent.name} joined as {agent.node_id}: {cards}"
        stage.held(STEP, told, stage.event("node.connected", agent.node_id))


async def admit(stage: Stage, agent: Agent) -> str:
    """A join token, used at once; the node's id."""
    secret, digest = secret_pair()
    body = {"organisation_id": "platform", "cluster_id": "local", "secret_sha256": digest}
    made = await asyncio.to_thread(stage.admin.call, "POST", "/api/v1/join-tokens", body)
    state = stage.state()
    token = f"lj_{made['id']}_{secret}"
    try:
        return await join(state["gateway"], Path(state["ca"]), token, agent.name, agent.credentials)
    except JoinFailed as error:
        raise NotHeld(str(error)) from error


def ready(stage: Stage, agent: Agent) -> Mapping[str, Any]:
    """The node as the resource manager sees it, once it takes work."""

    def look() -> Mapping[str, Any] | None:
        found = stage.admin.call("GET", "/api/v1/nodes")["nodes"]
        fits = [one for one in found if one["node_id"] == agent.node_id]
        return fits[0] if fits and fits[0]["status"] == "NODE_STATUS_READY" else None

    return stage.wait(f"node {agent.name} is not ready", look, READY_SECONDS)
