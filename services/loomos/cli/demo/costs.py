"""Chapter 8: what it cost, from usage events; and two refusals, each an event with its reason."""

from typing import Any

from loomos.cli.demo import jobs
from loomos.cli.demo.people import GPUS_MILLI_MAX, PROJECT
from loomos.cli.demo.stage import Stage, require
from loomos.client.profile import Refused

__all__ = ["play"]

STEP = 8
USAGE_SECONDS = 30


def play(stage: Stage) -> None:
    """The bill, then what is not allowed."""
    bill(stage)
    restricted(stage)
    over_quota(stage)


def bill(stage: Stage) -> None:
    """Each run was metered; the sum is the job's cost."""
    job_id = stage.ids["training"]
    runs = stage.researcher.call("GET", f"/api/v1/jobs/{job_id}")["run"]

    def look() -> dict[str, Any] | None:
        found = stage.researcher.call("GET", f"/api/v1/marketplace/jobs/{job_id}/cost")
        return found if len(found["usage"]) == runs else None

    cost = stage.wait(f"not all {runs} runs are billed", look, USAGE_SECONDS)
    total = int(cost["micro_dollars"])
    parts = [int(one["micro_dollars"]) for one in cost["usage"]]
    require(total == sum(parts) > 0, f"{total} is not the sum of {parts}")
    require(total <= jobs.BUDGET_MICRO_DOLLARS, f"{total} is above the budget")
    event = {"event_id": cost["usage"][-1]["event_id"], "type": "usage.recorded"}
    told = " + ".join(map(str, parts)) + f" = {total} micro-dollars for {runs} runs"
    stage.held(STEP, told, event)


def restricted(stage: Stage) -> None:
    """Data above the project's clearance is refused."""
    spec = jobs.spec("secret", "urgent.py", ["1"])
    spec |= {"dataset_id": "patients", "classification": "DATA_CLASSIFICATION_RESTRICTED"}
    refusal = stage.refused(lambda: ask(stage, spec))
    require(refusal.code == "PERMISSION_DENIED", f"{refusal.code}: {refusal}")
    proved(stage, refusal)


def over_quota(stage: Stage) -> None:
    """More GPUs than the researcher may hold are refused."""
    spec = jobs.spec("greedy", "urgent.py", ["1"], gpus=GPUS_MILLI_MAX // 1000 + 1)
    refusal = stage.refused(lambda: ask(stage, spec))
    require(refusal.code == "RESOURCE_EXHAUSTED", f"{refusal.code}: {refusal}")
    proved(stage, refusal)


def ask(stage: Stage, spec: dict[str, Any]) -> dict[str, Any]:
    """Submit a job."""
    return stage.researcher.call("POST", "/api/v1/jobs", {"project_id": PROJECT, "spec": spec})


def proved(stage: Stage, refusal: Refused) -> None:
    """A refusal's event says the same as the answer."""
    event = stage.event("command.refused", correlation_id=refusal.correlation_id)
    said = event["payload"]
    require(said["message"] == refusal.detail, f"the log says {said['message']!r}")
    stage.held(STEP, f"refused ({refusal.status}): {refusal}", event)
