"""`loomos quota`: limits of users, projects and organisations, in human units."""

from decimal import Decimal
from typing import Annotated, Any

import typer

from loomos.cli.admin import Org, user_id_of
from loomos.cli.amounts import dollars_text, micro_dollars_of, milli_of, time_text
from loomos.cli.door import AsOf, Door, segment
from loomos.cli.show import Json, done, fields, listing, number, print_json

__all__ = ["quota"]

GPU_TIME = "QUOTA_KIND_GPU_TIME_PER_MONTH"
JOBS = "QUOTA_KIND_CONCURRENT_JOBS"
GPUS = "QUOTA_KIND_CONCURRENT_GPUS"
COST = "QUOTA_KIND_COST_PER_MONTH"
MILLI_GPU_SECONDS_PER_HOUR = 3_600_000

quota = typer.Typer(help="Limits of users, projects and organisations.", no_args_is_help=True)


@quota.command("set")
def quota_set(
    subject_id: Annotated[str, typer.Argument(help="A user, project or organisation.")],
    gpu_hours: Annotated[str, typer.Option(help="GPU hours a month, e.g. 40 or 0.5.")] = "",
    concurrent_jobs: Annotated[int | None, typer.Option(min=0, help="Jobs at one time.")] = None,
    concurrent_gpus: Annotated[str, typer.Option(help="GPUs at one time.")] = "",
    cost_per_month: Annotated[str, typer.Option(help="Money a month, e.g. 100$.")] = "",
    soft: Annotated[bool, typer.Option("--soft", help="Passing it warns, and is allowed.")] = False,
    organisation: Org = "",
    as_json: Json = False,
) -> None:
    """Set all limits of one subject at once; none at all removes the quota.

    Example: loomos quota set acme.vision --gpu-hours 40 --concurrent-jobs 4 --cost-per-month 100$
    """
    limits: dict[str, int] = {}
    if gpu_hours:
        limits[GPU_TIME] = milli_of("--gpu-hours", gpu_hours) * 3600
    if concurrent_jobs is not None:
        limits[JOBS] = concurrent_jobs
    if concurrent_gpus:
        limits[GPUS] = milli_of("--concurrent-gpus", concurrent_gpus)
    if cost_per_month:
        limits[COST] = micro_dollars_of("--cost-per-month", cost_per_month)
    firm = "WARNING" if soft else "STRICT"
    with Door.open() as door:
        subject_id, owner = subject_of(door, subject_id, organisation)
        body = {
            "organisation_id": owner,
            "limits": [
                {
                    "kind": kind,
                    "limit": str(limit),
                    "type": f"QUOTA_TYPE_{'SOFT' if soft else 'HARD'}",
                    "enforcement": f"QUOTA_ENFORCEMENT_{firm}",
                }
                for kind, limit in limits.items()
            ],
        }
        answer = door.call("PUT", f"/api/v1/quotas/{segment(subject_id)}", body)
    done(f"quota of {subject_id}: {limits_text(body['limits'])}", answer, as_json)


@quota.command("get")
def quota_get(
    subject_id: str, organisation: Org = "", as_of: AsOf = "", as_json: Json = False
) -> None:
    """Show the limits of one user, project or organisation."""
    with Door.open(as_of=as_of) as door:
        subject_id, _ = subject_of(door, subject_id, organisation)
        found = door.call("GET", f"/api/v1/quotas/{segment(subject_id)}")
    if as_json:
        print_json(found)
        return
    pairs = [("subject", found["subject_id"]), ("organisation", found["organisation_id"])]
    fields([*pairs, *((name_of(one), limit_text(one)) for one in found.get("limits", []))])


@quota.command("list")
def quota_list(organisation: Org = "", as_of: AsOf = "", as_json: Json = False) -> None:
    """List the quotas that you may see."""
    with Door.open(as_of=as_of) as door:
        found = list(door.pages("/api/v1/quotas", "quotas", {"organisation_id": organisation}))
    rows = (
        (one["subject_id"], limits_text(one.get("limits", [])), time_text(number(one, "set_at_us")))
        for one in found
    )
    listing(found, as_json, ("subject", "limits", "set"), rows, "no quota that you may see")


def subject_of(door: Door, subject: str, organisation: str) -> tuple[str, str]:
    """A quota's subject and the organisation that it is in; a user may be given by name."""
    if subject.startswith("usr-"):
        return subject, subject.removeprefix("usr-")[:-21]
    if "." in subject:
        return subject, subject.partition(".")[0]
    if organisation and organisation != subject:
        return user_id_of(door, subject, organisation), organisation
    return subject, subject


def name_of(limit: dict[str, Any]) -> str:
    """What a limit limits, for people."""
    names = {
        GPU_TIME: "GPU hours a month",
        JOBS: "jobs at one time",
        GPUS: "GPUs at one time",
        COST: "cost a month",
    }
    return names.get(str(limit["kind"]), str(limit["kind"]))


def limit_text(limit: dict[str, Any]) -> str:
    """A limit in human units."""
    value = number(limit, "limit")
    match limit["kind"]:
        case "QUOTA_KIND_GPU_TIME_PER_MONTH":
            text = f"{(Decimal(value) / MILLI_GPU_SECONDS_PER_HOUR).normalize():f}"
        case "QUOTA_KIND_CONCURRENT_GPUS":
            text = f"{(Decimal(value) / 1000).normalize():f}"
        case "QUOTA_KIND_COST_PER_MONTH":
            text = dollars_text(value)
        case _:
            text = str(value)
    return text + (" (soft)" if limit.get("type") == "QUOTA_TYPE_SOFT" else "")


def limits_text(limits: list[dict[str, Any]]) -> str:
    """All limits of a quota in one line."""
    return "; ".join(f"{name_of(one)} {limit_text(one)}" for one in limits) or "no limits"
