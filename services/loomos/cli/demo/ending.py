"""The end of the training job: the same bytes as those of a run that nobody disturbed."""

import base64
import hashlib

from loomos.cli.demo import jobs
from loomos.cli.demo.stage import Stage, require

__all__ = ["play"]

STEP = 5
END_SECONDS = 300


def play(stage: Stage) -> None:
    """Compare the job's model with the undisturbed one."""
    training = stage.watches["training"]
    end = jobs.finished(training, END_SECONDS)
    reference = stage.helpers[0]
    reference.wait(END_SECONDS)
    folder = stage.home / "demo" / "undisturbed"
    said = (folder / "log").read_text()
    require(reference.returncode == 0, f"the undisturbed run failed: {said[-400:]}")
    job = stage.researcher.call("GET", f"/api/v1/jobs/{training.job_id}")
    outputs = {one["path"]: base64.b64decode(one["sha256"]) for one in job["result"]["outputs"]}
    wanted = hashlib.sha256((folder / "model.npz").read_bytes()).digest()
    require(outputs.get("model.npz") == wanted, "the model differs from the undisturbed run's")
    told = f"after {job['run']} runs on 2 nodes its model is that of an undisturbed run, "
    stage.held(STEP, f"{told}byte for byte: sha256 {wanted.hex()}", end)
