"""`loomos report`: compliance reports whose every row is proved by the signed log.

Each command writes the report and, beside it, its signed manifest: `F` and `F.manifest`. Verify
both with `loomos-verify F --key …`.
"""

import base64
import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from loomos.cli.door import Door, place_of
from loomos.cli.show import Json, done

__all__ = ["app"]

app = typer.Typer(help="Compliance reports with proofs.", no_args_is_help=True)


class Format(StrEnum):
    """How a report is written."""

    HTML = "html"
    PDF = "pdf"
    JSON = "json"


Period = Annotated[
    str, typer.Option("--quarter", "--period", help="e.g. 2026Q4, 2026-11 or 2026-11-22")
]
Form = Annotated[Format, typer.Option("--format", help="How it is written")]
Out = Annotated[Path, typer.Option("--out", help="The file to write")]
Cut = Annotated[str, typer.Option(help="Make it again as of an earlier report's cut")]
Organisation = Annotated[
    str, typer.Option("--org", "--organisation", help="Whose; `platform` reports on all of them")
]


@app.command()
def access(
    period: Period,
    to: Out,
    form: Form = Format.HTML,
    cut: Cut = "",
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Who could do what: grants in force, changes, refusals and failures (SOC 2).

    Example: loomos report access --quarter 2026Q4 --format pdf --out access.pdf
    """
    made("access", {"period": period}, form, cut, organisation, to, as_json)


@app.command()
def activity(
    period: Period,
    to: Out,
    actor: Annotated[str, typer.Option(help="e.g. user:usr-acme-…; else every user")] = "",
    form: Form = Format.HTML,
    cut: Cut = "",
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """What users did.

    Example: loomos report activity --period 2026-11 --actor user:usr-acme-… --out activity.html
    """
    asked = {"period": period, "actor": actor}
    made("activity", asked, form, cut, organisation, to, as_json)


@app.command()
def lineage(
    thing: str,
    to: Out,
    form: Form = Format.HTML,
    cut: Cut = "",
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """What came of a dataset, job, checkpoint, model or deployment, and what it came from.

    Example: loomos report lineage iris-2026 --format json --out lineage.json
    """
    made("lineage", {"thing_id": thing}, form, cut, organisation, to, as_json)


@app.command()
def subject(
    subject_id: str,
    to: Out,
    form: Form = Format.HTML,
    cut: Cut = "",
    organisation: Organisation = "",
    as_json: Json = False,
) -> None:
    """Every event that concerns a person (GDPR, article 15); more than 250 in files of their own.

    Example: loomos report subject usr-acme-… --out subject.pdf --format pdf
    """
    asked: dict[str, Any] = {"subject_id": subject_id}
    first = made("subject", asked, form, cut, organisation, to, as_json)
    for part in range(2, int(first.get("parts", 0)) + 1):
        file = to.with_name(f"{to.stem}-{part}{to.suffix}")
        made("subject", asked | {"part": part}, form, first["cut"], organisation, file, as_json)


def made(
    report: str,
    asked: dict[str, Any],
    form: Format,
    cut: str,
    organisation: str,
    to: Path,
    as_json: bool,
) -> dict[str, Any]:
    """Have a report made, and write it with its manifest; the platform's answer."""
    with Door.open() as door:
        body = {name: value for name, value in asked.items() if value}
        body |= {"format": f"REPORT_FORMAT_{form.name}"} | ({"cut": cut} if cut else {})
        told = "whose report? give --organisation"
        place = place_of(door, organisation, f"reports/{report}", told)
        answer = door.call("POST", place, body, reads=True)
    content = base64.b64decode(answer.get("content", ""))
    to.write_bytes(content)
    to.with_name(f"{to.name}.manifest").write_text(answer.get("manifest", ""))
    told = {
        "file": str(to),
        "rows": int(answer.get("rows", 0)),
        "sha256": hashlib.sha256(content).hexdigest(),
        "cut": answer.get("cut", ""),
        "public_key": answer.get("public_key", ""),
    }
    lines = (f"{name}: {value}" for name, value in told.items() if name != "file")
    done(f"{to}: {told['rows']} events", told, as_json)
    if not as_json:
        for line in lines:
            done(f"  {line}", told)
    return answer
