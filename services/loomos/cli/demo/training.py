"""Chapters 3 and 4: a price, a job, its place and the reason for it; its logs and GPUs live."""

import base64
import os
import re
import ssl
import subprocess
import sys
from typing import Any

import httpx

from loomos.cli.demo import jobs, nodes
from loomos.cli.demo.people import ORGANISATION
from loomos.cli.demo.stage import Stage, examples, require

__all__ = ["play"]

PRICE, RUN = 3, 4
GPU_MEMORY_BYTES_MIN = 32 * jobs.GIB
ESTIMATE_SECONDS = 60
LIVE = re.compile(r"epoch \d+/\d+ accuracy [\d.]+")


def play(stage: Stage) -> None:
    """From the price to a running job."""
    cordon(stage)
    estimate(stage)
    train(stage)
    placed(stage)
    started(stage)
    logs(stage)
    telemetry(stage)


def cordon(stage: Stage) -> None:
    """One GPU node is kept for later: until then there is one place, and two jobs want it."""
    node_id = stage.agents[nodes.SECOND].node_id
    body = {"reason": "kept in reserve"}
    stage.admin.call("POST", f"/api/v1/nodes/{node_id}/cordon", body)
    told = f"{nodes.SECOND} is cordoned: one GPU is left for work"
    stage.held(PRICE, told, stage.event("node.cordoned", node_id))


def estimate(stage: Stage) -> None:
    """What a minute of it would cost."""
    resources = training()["resources"]
    body = {
        "organisation_id": ORGANISATION,
        "resources": resources,
        "gpu_model": "NVIDIA A100-PCIE-40GB",
        "runtime_seconds": ESTIMATE_SECONDS,
    }
    found = stage.researcher.call("POST", "/api/v1/marketplace/estimates", body)
    cost = int(found["micro_dollars"])
    require(cost > 0, f"the estimate is {cost} micro-dollars")
    lines = ", ".join(f"{one['sku']} {one['micro_dollars']}" for one in found["lines"])
    told = f"{ESTIMATE_SECONDS} s would cost {cost} micro-dollars ({lines})"
    stage.held(PRICE, told, price_list=found["price_list_version"])


def training() -> dict[str, Any]:
    """The main job: a linear classifier of handwritten digits."""
    return jobs.spec(
        "digits",
        "train_digits.py",
        jobs.TRAINING,
        gpus=1,
        gpu_memory_bytes_min=GPU_MEMORY_BYTES_MIN,
        budget_micro_dollars=jobs.BUDGET_MICRO_DOLLARS,
        dataset_id=jobs.DATASET,
        classification="DATA_CLASSIFICATION_PUBLIC",
        max_runtime_seconds=900,
        register_model={"model_name": jobs.MODEL, "plugin": "sklearn-linear"},
    )


def train(stage: Stage) -> None:
    """The job is submitted; the same script runs beside it undisturbed, for comparison."""
    watch = jobs.submit(stage, "training", training())
    told = (
        f"{watch.job_id}: budget {jobs.BUDGET_MICRO_DOLLARS} micro-dollars, "
        f"dataset {jobs.DATASET} is public"
    )
    stage.held(PRICE, told, jobs.reached(watch, "job.submitted", 20))
    reference = stage.home / "demo" / "undisturbed"
    reference.mkdir(parents=True, exist_ok=True)
    with (reference / "log").open("wb") as log:
        script = str(examples() / "train_digits.py")
        stage.helpers.append(
            subprocess.Popen(
                [sys.executable, script, *jobs.TRAINING, "--out", str(reference)],
                env={"PATH": os.environ.get("PATH", "")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        )


def placed(stage: Stage) -> None:
    """The scheduler says where and why; the resource manager grants."""
    watch = stage.watches["training"]
    place = jobs.reached(watch, "job.placed", 20)
    stage.held(RUN, place["text"], place)
    admitted = jobs.reached(watch, "job.admitted", 20)
    allocation_id = stage.researcher.call("GET", f"/api/v1/jobs/{watch.job_id}")["allocation_id"]
    stage.ids["allocation"] = allocation_id
    granted = stage.event("allocation.granted", allocation_id)
    stage.held(RUN, f"the resource manager granted {allocation_id}: {admitted['text']}", granted)


def started(stage: Stage) -> None:
    """The agent runs it, behind the walls that this machine allows."""
    watch = stage.watches["training"]
    start = jobs.reached(watch, "job.started", 60)
    job = stage.researcher.call("GET", f"/api/v1/jobs/{watch.job_id}")
    require(job["node_id"] == stage.agents[nodes.FIRST].node_id, f"it runs on {job['node_id']}")
    require("rlimits" in job["isolation"], f"isolation is {job['isolation']!r}")
    stage.ids["running"] = start["event_id"]
    stage.held(RUN, f"it runs on {nodes.FIRST}, isolated by {job['isolation']}", start)


def logs(stage: Stage) -> None:
    """Its log comes line by line while it runs."""
    watch = stage.watches["training"]
    text = ""
    path = f"/api/v1/jobs/{watch.job_id}/logs"
    for chunk in stage.researcher.lines(path, {"follow": True}):
        text += base64.b64decode(chunk.get("data", "")).decode(errors="replace")
        if LIVE.search(text):
            break
    line = LIVE.search(text)
    require(line is not None and not watch.over(), f"no live line in the log: {text!r}")
    assert line is not None
    step = jobs.reached(watch, "job.progressed", 30)
    stage.held(RUN, f"its log says live: {line[0]}", step)


def telemetry(stage: Stage) -> None:
    """Its GPU's figures went over the bus and through a window."""
    node_id = stage.agents[nodes.FIRST].node_id
    wanted = re.compile(rf'loomos_gpu_utilisation_percent{{.*node="{node_id}".*}} (\S+)')

    def look() -> re.Match[str] | None:
        return wanted.search(metrics(stage, "telemetry"))

    found = stage.wait(f"no window over the GPU of {nodes.FIRST}", look, 30)
    told = f"utilisation of its GPU, mean of a 10 s window: {float(found[1]):.0f} %"
    stage.held(RUN, told, stage.event("node.registered", node_id))


def metrics(stage: Stage, service: str) -> str:
    """A service's metrics; its door opens to a certificate of the platform."""
    own = stage.home / "credentials" / "supervisor"
    trust = ssl.create_default_context(cafile=str(own / "ca.crt"))
    trust.load_cert_chain(own / "tls.crt", own / "tls.key")
    address = stage.state()["services"][service]["metrics"]
    return httpx.get(f"https://{address}/metrics", verify=trust, trust_env=False).text
