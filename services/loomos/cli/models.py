"""`loomos models | model | deployments | deploy | rollback`: what was trained, what is served."""

import base64
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from loomos.cli.amounts import bytes_text, time_text
from loomos.cli.door import AsOf, Door, segment
from loomos.cli.show import Json, done, fields, listing, number, print_json, short
from loomos.client.profile import Refused

__all__ = ["add_to"]

PAGE = 100
ENVIRONMENTS = ("staging", "production")

ModelArgument = Annotated[str, typer.Argument(help="A model's id, or its name in --project.")]
Project = Annotated[str, typer.Option(help="Only this project's.")]


def add_to(app: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (models, model, deployments, deploy, rollback):
        app.command()(command)


def models(project: Project = "", as_of: AsOf = "", as_json: Json = False) -> None:
    """List the registered models."""
    with Door.open(as_of=as_of) as door:
        found = list(pages(door, "models", {"project_id": project}))
    rows = (
        (
            one["model_name"],
            one["project_id"],
            one.get("latest_version", 0),
            time_text(number(one, "created_at_us")),
            one["model_id"],
        )
        for one in found
    )
    columns = ("model", "project", "versions", "first", "id")
    listing(found, as_json, columns, rows, "no model that you may see")


def model(
    which: ModelArgument,
    version: Annotated[int, typer.Option(min=0, help="Which version; else the latest.")] = 0,
    project: Project = "",
    as_of: AsOf = "",
    as_json: Json = False,
) -> None:
    """Show one version of a model: where it came from, how good it is, what it is made of."""
    with Door.open(as_of=as_of) as door:
        known = model_of(door, which, project)
        number_ = version or int(known.get("latest_version", 0))
        path = f"/api/v1/models/{segment(known['model_id'])}/versions/{number_}"
        found = door.call("GET", path)
    if as_json:
        print_json(found)
        return
    lineage = found.get("lineage") or {}
    fields(
        (
            ("model", found["model_name"]),
            ("id", found["model_id"]),
            ("project", found["project_id"]),
            ("version", found["version"]),
            ("stage", short(found.get("stage"), "MODEL_STAGE_").lower()),
            ("served by", found.get("plugin")),
            ("trained by", f"{lineage.get('job_id')} run {lineage.get('run', 0)}"),
            ("dataset", lineage.get("dataset_id")),
            ("dataset's SHA-256", hex_of(lineage.get("dataset_sha256", ""))),
            ("checkpoint's SHA-256", hex_of(lineage.get("checkpoint_sha256", ""))),
            ("registered", time_text(number(found, "created_at_us"))),
            *(
                (one["name"], f"{number(one, 'value_ppm') / 1_000_000:.6g}")
                for one in found.get("metrics", [])
            ),
            *(
                (
                    one["path"],
                    f"{bytes_text(number(one, 'size_bytes'))}, SHA-256 {hex_of(one['sha256'])}",
                )
                for one in (found.get("artifact") or {}).get("files", [])
            ),
        )
    )


def deployments(project: Project = "", as_of: AsOf = "", as_json: Json = False) -> None:
    """List what is deployed where."""
    with Door.open(as_of=as_of) as door:
        found = list(pages(door, "deployments", {"project_id": project}))
    rows = (
        (
            one.get("model_name"),
            short(one.get("environment"), "ENVIRONMENT_").lower(),
            short(one.get("status"), "DEPLOYMENT_STATUS_"),
            one.get("serving_version", 0) or "-",
            one.get("revision", 0),
            (one.get("endpoint") or {}).get("rest_url", ""),
            one.get("reason", ""),
            one["deployment_id"],
        )
        for one in found
    )
    columns = ("model", "environment", "status", "serves", "revision", "REST", "reason", "id")
    listing(found, as_json, columns, rows, "no deployment that you may see")


def deploy(
    which: ModelArgument,
    version: Annotated[int, typer.Option(min=0, help="Which version; else the latest.")] = 0,
    to: Annotated[str, typer.Option(help=f"One of {', '.join(ENVIRONMENTS)}.")] = "staging",
    replicas: Annotated[int, typer.Option(min=1, max=64)] = 1,
    project: Project = "",
    as_json: Json = False,
) -> None:
    """Serve a version of a model. Example: loomos deploy digits --project acme.vision"""
    if to not in ENVIRONMENTS:
        raise typer.BadParameter(f"{to!r} is none: want staging or production", param_hint="--to")
    with Door.open() as door:
        known = model_of(door, which, project)
        body = {
            "project_id": known["project_id"],
            "version": version or known.get("latest_version", 0),
            "environment": f"ENVIRONMENT_{to.upper()}",
            "replicas": replicas,
        }
        path = f"/api/v1/models/{segment(known['model_id'])}/deploy"
        answer = door.call("POST", path, body)
    done(str(answer["id"]), answer, as_json)


def rollback(
    deployment_id: str,
    revision: Annotated[int, typer.Option(min=0, help="Back to which; else the one before.")] = 0,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    as_json: Json = False,
) -> None:
    """Take a deployment back to an earlier revision."""
    with Door.open() as door:
        path = f"/api/v1/deployments/{segment(deployment_id)}/rollback"
        answer = door.call("POST", path, {"revision": revision, "reason": reason})
    done(f"{deployment_id}: rollback asked for", answer, as_json)


def model_of(door: Door, which: str, project: str) -> dict[str, Any]:
    """A model by its id, or by a name that only one project has."""
    if which.startswith("model-"):
        return door.call("GET", f"/api/v1/models/{segment(which)}")
    named = [
        one for one in pages(door, "models", {"project_id": project}) if one["model_name"] == which
    ]
    if len(named) == 1:
        return named[0]
    if named:
        projects = ", ".join(one["project_id"] for one in named)
        raise Refused(409, "FAILED_PRECONDITION", f"{which!r} is in {projects}: give --project")
    raise Refused(404, "NOT_FOUND", f"no model {which!r}: see `loomos models`")


def pages(door: Door, name: str, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Everything that a list counted by offset holds."""
    asked: dict[str, Any] = {key: value for key, value in params.items() if value}
    asked |= {"limit": PAGE, "offset": 0}
    while True:
        page = door.call("GET", f"/api/v1/{name}", params=asked).get(name, [])
        yield from page
        if len(page) < PAGE:
            return
        asked["offset"] += PAGE


def hex_of(content: str) -> str:
    """Bytes that JSON carries in base64, as hex."""
    return base64.b64decode(content).hex()
