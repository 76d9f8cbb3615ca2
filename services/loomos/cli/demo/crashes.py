"""Chapter 6: kill -9 of the resource manager, of agents alone, of a whole node; nothing is lost."""

import os
import signal
import time

import psutil

from loomos.cli.demo import jobs, nodes
from loomos.cli.demo.agents import Agent
from loomos.cli.demo.stage import Stage, require
from loomos.cli.demo.watch import Watch

__all__ = ["play"]

STEP = 6
SHORT_SECONDS = "4"
BACK_SECONDS = 60
LOST_SECONDS = 90


def play(stage: Stage) -> None:
    """Three kills, one after the other, while the job trains."""
    resource_manager(stage)
    agents(stage)
    node(stage)


def resource_manager(stage: Stage) -> None:
    """The keeper of the books dies and comes back with all that it had acknowledged."""
    service = stage.state()["services"]["resource-manager"]
    training = stage.watches["training"]
    os.kill(service["pid"], signal.SIGKILL)

    def look() -> bool:
        now = stage.state()["services"]["resource-manager"]
        return now["pid"] not in (0, service["pid"]) and now["healthy"]

    stage.wait("the resource manager is not back", look, BACK_SECONDS)
    step = jobs.reached(training, "job.progressed", BACK_SECONDS, training.version)
    told = f"the resource manager (pid {service['pid']}) was killed and is back; {step['text']}"
    stage.held(STEP, told, step)


def agents(stage: Stage) -> None:
    """Two agents die alone: one job goes on, another ends meanwhile; nothing of it is missed."""
    training = stage.watches["training"]
    selector = {"kind": "cpu"}
    spec = jobs.spec("short", "urgent.py", [SHORT_SECONDS], node_selector=selector)
    short = jobs.submit(stage, "short", spec)
    jobs.reached(short, "job.started", BACK_SECONDS)
    first, third = stage.agents[nodes.FIRST], stage.agents[nodes.THIRD]
    before = {one.pid for one in first.jobs()}
    killed = [agent.kill() for agent in (first, third)]
    alive = {one.pid for one in first.jobs() if one.status() != psutil.STATUS_ZOMBIE}
    require(bool(before) and before <= alive, f"processes {before - alive} died with the agent")
    since = training.version
    first.start()
    stage.wait("the short job does not end", lambda: not third.jobs(), BACK_SECONDS)
    third.start()
    adopted(stage, first, training)
    step = jobs.reached(training, "job.progressed", BACK_SECONDS, since)
    stage.held(STEP, f"its job went on without it: {step['text']}, still run {step['run']}", step)
    end = jobs.finished(short, BACK_SECONDS)
    told = f"agents (pids {killed[0]}, {killed[1]}) were killed; the job that ended meanwhile: "
    stage.held(STEP, told + end["text"], end)


def adopted(stage: Stage, agent: Agent, watch: Watch) -> None:
    """The new agent process says that it has the old one's job."""
    job = stage.researcher.call("GET", f"/api/v1/jobs/{watch.job_id}")
    allocation_id = job["allocation_id"]
    event = stage.event(
        "node.connected",
        agent.node_id,
        BACK_SECONDS,
        lambda one: allocation_id in one["payload"].get("kept_allocation_ids", ()),
    )
    stage.held(STEP, f"the restarted agent of {agent.name} adopted {allocation_id}", event)


def node(stage: Stage) -> None:
    """A node dies with all that runs on it; the job goes on elsewhere from its checkpoint."""
    training = stage.watches["training"]
    first, second = stage.agents[nodes.FIRST], stage.agents[nodes.SECOND]
    stage.admin.call("POST", f"/api/v1/nodes/{second.node_id}/uncordon", {})
    since, now_us = training.version, time.time_ns() // 1000
    first.kill_node()
    lost = stage.event(
        "node.lost", first.node_id, LOST_SECONDS, lambda one: int(one["at_us"]) > now_us
    )
    stage.held(STEP, f"{first.name} was killed with its job and counts as lost", lost)
    moved = jobs.reached(training, "job.requeued", LOST_SECONDS, since)
    stage.held(STEP, moved["text"], moved)
    start = jobs.reached(training, "job.started", BACK_SECONDS, int(moved["version"]))
    job = stage.researcher.call("GET", f"/api/v1/jobs/{training.job_id}")
    require(job["node_id"] == second.node_id, f"it runs on {job['node_id']}")
    stage.held(STEP, f"{start['text']}, on {second.name}", start)
