"""Chapter 7: the model is registered with its lineage, goes to staging, and classifies digits."""

import base64
import json
import os
import subprocess
from typing import Any

from loomos.cli.demo import jobs
from loomos.cli.demo.outsider import Outsider
from loomos.cli.demo.people import PROJECT
from loomos.cli.demo.stage import Stage, examples, require
from loomos.client.profile import Profile

__all__ = ["play"]

STEP = 7
MEASURED = ("accuracy", "precision", "recall")
WANTED = 0.8
DEPLOY_SECONDS = 60
CLASSIFY_SECONDS = 120


def play(stage: Stage, outsider: Outsider) -> None:
    """From the finished job to real digits read by an outside client."""
    registered(stage)
    endpoint = deployed(stage)
    classified(stage, outsider, endpoint)


def registered(stage: Stage) -> None:
    """The model version says where it comes from."""

    def of_the_job(event: Any) -> bool:
        return event["payload"]["lineage"]["job_id"] == stage.ids["training"]

    event = stage.event("model.version.registered", "", DEPLOY_SECONDS, of_the_job)
    model_id = event["stream"]
    version = stage.researcher.call("GET", f"/api/v1/models/{model_id}/versions/1")
    lineage = version["lineage"]
    require(lineage["dataset_id"] == jobs.DATASET, f"its lineage is {lineage}")
    digest = base64.b64decode(lineage["dataset_sha256"]).hex()
    checkpoint = base64.b64decode(lineage["checkpoint_sha256"]).hex()
    require(len(digest) == len(checkpoint) == 64, f"its lineage is {lineage}")
    metrics = {one["name"]: int(one["value_ppm"]) / 1e6 for one in version["metrics"]}
    shown = ", ".join(f"{name} {metrics[name]:.3f}" for name in MEASURED)
    require(all(metrics[name] > WANTED for name in MEASURED), f"it measured {shown}")
    told = f"{model_id} version 1: {shown}; job {lineage['job_id']} run {lineage['run']}, "
    stage.ids["model"] = model_id
    stage.held(
        STEP, f"{told}dataset sha256 {digest[:12]}…, checkpoint sha256 {checkpoint[:12]}…", event
    )


def deployed(stage: Stage) -> dict[str, Any]:
    """The policy sends it to staging; one worker of its own serves it."""
    judged = stage.event("auto.deployment.judged", stage.ids["model"])
    require(bool(judged["payload"].get("approved")), f"the policy said {judged['payload']}")
    reasons = "; ".join(judged["payload"]["reasons"])
    stage.held(STEP, f"{judged['payload']['policy_version']} approves: {reasons}", judged)

    def look() -> dict[str, Any] | None:
        path = "/api/v1/deployments"
        found = stage.researcher.call("GET", path, params={"project_id": PROJECT})["deployments"]
        fits = [one for one in found if one["model_id"] == stage.ids["model"]]
        active = fits and fits[0]["status"] == "DEPLOYMENT_STATUS_ACTIVE"
        return fits[0] if active else None

    deployment = stage.wait("the model is not served", look, DEPLOY_SECONDS)
    endpoint = deployment["endpoint"]
    told = f"{endpoint['served_name']} is served in staging, isolated by "
    activated = stage.event("deployment.activated", deployment["deployment_id"])
    stage.held(STEP, told + ",".join(endpoint["isolation"]), activated)
    return endpoint


def classified(stage: Stage, outsider: Outsider, endpoint: dict[str, Any]) -> None:
    """NVIDIA's Triton client, which knows nothing of LoomOS, asks over gRPC and REST."""
    key_id, secret = Profile.named(stage.home, "researcher").key().removeprefix("lk_").split("_", 1)
    given = {"api_key_id": key_id, "secret": secret}
    token = stage.researcher.call("POST", "/api/v1/tokens", given)["token"]
    command = [str(outsider.python()), str(examples() / "classify_digits.py"), "--json"]
    command += ["--model", endpoint["served_name"], "--grpc", endpoint["grpc_address"]]
    command += ["--rest", endpoint["rest_url"], "--ca", str(stage.researcher.ca)]
    environ = {"PATH": os.environ.get("PATH", ""), "LOOMOS_TOKEN": token}
    done = subprocess.run(
        command,
        env=environ,
        capture_output=True,
        text=True,
        timeout=CLASSIFY_SECONDS,
        check=False,
    )
    require(done.returncode == 0, f"tritonclient: {done.stderr.strip()[-400:]} {done.stdout}")
    found = json.loads(done.stdout)
    told = f"tritonclient read {found['images']} digits that the model never saw: "
    shares = ", ".join(
        f"{share:.1%} right over {door}" for door, share in found["accuracy"].items()
    )
    stage.held(STEP, told + shares, stage.event("token.issued", key_id))
