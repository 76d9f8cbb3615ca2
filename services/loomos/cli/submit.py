"""`loomos submit`: a command line becomes a job.

1. An argument that names a file here goes along as an input of the same relative path; the job runs
   in its input folder, so that the command reads the same there.
2. No file outside of the current folder goes along unless --input names it.
"""

import base64
from pathlib import Path
from typing import Annotated, Any

import typer

from loomos.cli.admin import classification_of
from loomos.cli.amounts import bytes_of, micro_dollars_of, milli_of, pairs_of, seconds_of
from loomos.cli.door import Door
from loomos.cli.follow import follow_to_end
from loomos.cli.show import Json, done, err, fields, print_json, short

__all__ = ["inputs_of", "submit"]

PRIORITIES = ("scavenger", "batch", "low", "normal", "high", "urgent", "critical")
INPUT_BYTES_MAX = 512 * 1024
PLUGIN = "sklearn-linear"


def submit(
    command: Annotated[list[str], typer.Argument(help="After `--`: program and arguments.")],
    project: Annotated[str, typer.Option(help="The project that owns and pays the job.")],
    name: Annotated[str, typer.Option(help="What people call it; else the program's name.")] = "",
    cpu: Annotated[str, typer.Option(help="Cores, e.g. 2, 0.5 or 500m.")] = "1",
    memory: Annotated[str, typer.Option(help="Memory, e.g. 512MiB.")] = "512MiB",
    disk: Annotated[str, typer.Option(help="Scratch space, e.g. 2GiB.")] = "",
    gpus: Annotated[int, typer.Option(min=0, max=10_000, help="Whole GPUs.")] = 0,
    gpu_model: Annotated[str, typer.Option(help="As the driver names it; else any.")] = "",
    gpu_memory: Annotated[str, typer.Option(help="Least memory of each GPU, e.g. 40GiB.")] = "",
    priority: Annotated[str, typer.Option(help=f"One of {', '.join(PRIORITIES)}.")] = "normal",
    max_runtime: Annotated[str, typer.Option(help="Longest time to run, e.g. 10m.")] = "",
    grace: Annotated[str, typer.Option(help="Time to checkpoint when told to stop.")] = "",
    checkpoint_interval: Annotated[str, typer.Option(help="Told to the job, e.g. 60s.")] = "",
    retries: Annotated[int, typer.Option(min=0, max=100, help="Tries after a failure.")] = 0,
    budget: Annotated[str, typer.Option(help="Most that it may cost, e.g. 5$.")] = "",
    dataset: Annotated[str, typer.Option(help="The dataset that it reads.")] = "",
    classification: Annotated[str, typer.Option(help="How sensitive that dataset is.")] = "",
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="FILE or PATH=FILE that goes along; again for each."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Register the outputs as this model, NAME or NAME:PLUGIN.")
    ] = "",
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; again for each.")] = None,
    selector: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE that the node's labels must have.")
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(help="NAME=VALUE to find it by.")] = None,
    not_preemptible: Annotated[
        bool, typer.Option("--not-preemptible", help="No other job may take its place.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what a round would do with it now.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it; exit status 1 unless it completes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Submit a job.

    Example: loomos submit --project acme.vision --gpus 1 --budget 5$ -- python train.py --epochs 3
    """
    spec = {
        "name": name or job_name(command),
        "command": command[:64],
        "args": command[64:],
        "env": pairs_of("--env", env or []),
        "inputs": inputs_of(command, inputs or []),
        "resources": {
            "cpu_milli": str(milli_of("--cpu", cpu)),
            "memory_bytes": str(bytes_of("--memory", memory)),
            "gpu_milli": str(gpus * 1000),
            "storage_bytes": str(bytes_of("--disk", disk)),
        },
        "gpu_model": gpu_model,
        "gpu_memory_bytes_min": str(bytes_of("--gpu-memory", gpu_memory)),
        "node_selector": pairs_of("--selector", selector or []),
        "priority": priority_of(priority),
        "not_preemptible": not_preemptible,
        "grace_period_seconds": seconds_of("--grace", grace),
        "max_runtime_seconds": seconds_of("--max-runtime", max_runtime),
        "retry": {"retries_max": retries},
        "budget_micro_dollars": str(micro_dollars_of("--budget", budget)),
        "dataset_id": dataset,
        "checkpoint_interval_seconds": seconds_of("--checkpoint-interval", checkpoint_interval),
        "tags": pairs_of("--tag", tag or []),
    }
    if classification:
        spec["classification"] = classification_of(classification)
    if model:
        model_name, _, plugin = model.partition(":")
        spec["register_model"] = {"model_name": model_name, "plugin": plugin or PLUGIN}
    body = {"project_id": project, "spec": spec}
    with Door.open() as door:
        if dry_run:
            show_dry_run(door.call("POST", "/api/v1/jobs/dry-run", body), as_json)
            return
        answer = door.call("POST", "/api/v1/jobs", body)
        done(str(answer["id"]), answer, as_json)
        if not wait:
            if not as_json:
                err.print(f"follow it: loomos follow {answer['id']}", markup=False)
            return
        if follow_to_end(door, answer["id"], as_json) != "JOB_STATUS_COMPLETED":
            raise typer.Exit(1)


def inputs_of(command: list[str], given: list[str]) -> list[dict[str, str]]:
    """The files that go along with a job."""
    found: dict[str, Path] = {}
    for text in given:
        path, equals, file = text.partition("=")
        source = Path(file if equals else text)
        if not source.is_file():
            raise typer.BadParameter(f"{text!r} names no file here", param_hint="--input")
        relative = not source.is_absolute() and ".." not in source.parts
        found[path if equals else str(source) if relative else source.name] = source
    for text in command:
        source = Path(text)
        inside = not source.is_absolute() and ".." not in source.parts
        if inside and len(text) < 256 and source.is_file():
            found.setdefault(str(source), source)
    size = sum(source.stat().st_size for source in found.values())
    if size > INPUT_BYTES_MAX:
        raise typer.BadParameter(
            f"the files hold {size} bytes, {INPUT_BYTES_MAX} may go along with a job: "
            "let it fetch what is larger",
            param_hint="--input",
        )
    return [
        {"path": path, "content": base64.b64encode(source.read_bytes()).decode()}
        for path, source in sorted(found.items())
    ]


def job_name(command: list[str]) -> str:
    """A name made from the script, else from the program."""
    scripts = [Path(text).stem for text in command if text.endswith((".py", ".sh"))]
    name = (scripts or [Path(command[0]).name])[0].lower()
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name)
    return kept.strip("._-")[:63] or "job"


def priority_of(text: str) -> str:
    """A priority in the contract's words."""
    if text not in PRIORITIES:
        raise typer.BadParameter(
            f"{text!r} is none: want {', '.join(PRIORITIES)}", param_hint="--priority"
        )
    return f"PRIORITY_CLASS_{text.upper()}"


def show_dry_run(answer: dict[str, Any], as_json: bool) -> None:
    """What a round would do."""
    if as_json:
        print_json(answer)
        return
    placeable = bool(answer.get("placeable"))
    reason = "" if placeable else short(answer.get("reason"), "UNPLACED_REASON_")
    fields(
        (
            ("would be placed", "at once" if placeable else "not yet"),
            ("node", answer.get("node_id", "")),
            ("would preempt", ", ".join(answer.get("preempted_job_ids", []))),
            ("reason", reason),
            ("detail", answer.get("detail", "")),
            ("jobs ahead", answer.get("jobs_ahead", "0")),
        )
    )
