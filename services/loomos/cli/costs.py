"""`loomos estimate | cost | usage | budget | prices`: what work costs."""

from typing import Annotated, Any

import typer

from loomos.cli.amounts import (
    bytes_of,
    dollars_text,
    micro_dollars_of,
    milli_of,
    milli_text,
    seconds_of,
    seconds_text,
    time_text,
)
from loomos.cli.door import AsOf, Door, segment
from loomos.cli.show import Json, done, fields, listing, number, out, print_json, table

__all__ = ["add_to"]

budget = typer.Typer(help="What a project may spend in a month.", no_args_is_help=True)

Org = Annotated[str, typer.Option("--org", help="Whose prices; your organisation's if not given.")]


def add_to(app: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (estimate, cost, usage, prices):
        app.command()(command)
    app.add_typer(budget, name="budget")


def estimate(
    runtime: Annotated[str, typer.Option(help="How long it would run, e.g. 2h.")],
    cpu: Annotated[str, typer.Option(help="Cores.")] = "1",
    memory: Annotated[str, typer.Option(help="Memory, e.g. 4GiB.")] = "512MiB",
    gpus: Annotated[int, typer.Option(min=0, help="Whole GPUs.")] = 0,
    gpu_model: Annotated[str, typer.Option(help="As the driver names it.")] = "",
    disk: Annotated[str, typer.Option(help="Scratch space.")] = "",
    organisation: Org = "",
    as_json: Json = False,
) -> None:
    """Say what a job would cost.

    Example: loomos estimate --gpus 1 --gpu-model "NVIDIA A100-SXM4-80GB" --runtime 2h
    """
    with Door.open() as door:
        body = {
            "organisation_id": organisation or door.organisation_id,
            "resources": {
                "cpu_milli": str(milli_of("--cpu", cpu)),
                "memory_bytes": str(bytes_of("--memory", memory)),
                "gpu_milli": str(gpus * 1000),
                "storage_bytes": str(bytes_of("--disk", disk)),
            },
            "gpu_model": gpu_model,
            "runtime_seconds": str(seconds_of("--runtime", runtime)),
        }
        found = door.call("POST", "/api/v1/marketplace/estimates", body)
    if as_json:
        print_json(found)
        return
    show_lines(found.get("lines", []))
    out.print(f"[bold]{dollars_text(number(found, 'micro_dollars'))}[/bold] in all")
    out.print(f"[dim]price list {found.get('price_list_version')}[/dim]")


def cost(job_id: str, as_of: AsOf = "", as_json: Json = False) -> None:
    """Show what a job has cost so far, run by run."""
    with Door.open(as_of=as_of) as door:
        found = door.call("GET", f"/api/v1/marketplace/jobs/{segment(job_id)}/cost")
    if as_json:
        print_json(found)
        return
    show_usage(found.get("usage", []), False)
    out.print(f"[bold]{dollars_text(number(found, 'micro_dollars'))}[/bold] in all")


def usage(
    project: Annotated[str, typer.Option(help="Only this project's.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000_000)] = 100,
    as_of: AsOf = "",
    as_json: Json = False,
) -> None:
    """List what was used and what it cost."""
    params = {"project_id": project, "limit": min(limit, 1000)}
    with Door.open(as_of=as_of) as door:
        found = list(door.pages("/api/v1/marketplace/usage", "usage", params, limit))
    show_usage(found, as_json)


def prices(organisation: Org = "", as_of: AsOf = "", as_json: Json = False) -> None:
    """List the prices."""
    with Door.open(as_of=as_of) as door:
        params = {"organisation_id": organisation or door.organisation_id}
        found = door.call("GET", "/api/v1/marketplace/prices", params=params)
    if as_json:
        for one in found.get("prices", []):
            print_json(one)
        return
    rows = (
        (one["sku"], dollars_text(number(one, "micro_dollars_per_hour")), one.get("source", ""))
        for one in found.get("prices", [])
    )
    table(("what", "an hour", "source"), rows, "no prices")
    out.print(f"[dim]price list {found.get('price_list_version')}[/dim]")


@budget.command("set")
def budget_set(
    project: Annotated[str, typer.Argument(help="The project.")],
    amount: Annotated[str, typer.Argument(help="Money a month, e.g. 100$; 0$ for no limit.")],
    as_json: Json = False,
) -> None:
    """Set what a project may spend in a month. Example: loomos budget set acme.vision 100$"""
    micro_dollars = micro_dollars_of("AMOUNT", amount)
    with Door.open() as door:
        path = f"/api/v1/marketplace/budgets/{segment(project)}"
        answer = door.call("PUT", path, {"monthly_micro_dollars": str(micro_dollars)})
    done(f"{project} may spend {dollars_text(micro_dollars)} a month", answer, as_json)


@budget.command("get")
def budget_get(project: str, as_of: AsOf = "", as_json: Json = False) -> None:
    """Show a project's budget and what of it is spent."""
    with Door.open(as_of=as_of) as door:
        found = door.call("GET", f"/api/v1/marketplace/budgets/{segment(project)}")
    if as_json:
        print_json(found)
        return
    fields(
        (
            ("project", found["project_id"]),
            ("month", found.get("month")),
            ("budget", dollars_text(number(found, "monthly_micro_dollars"))),
            ("spent", dollars_text(number(found, "spent_micro_dollars"))),
        )
    )


def show_lines(lines: list[dict[str, Any]]) -> None:
    """What a sum is made of."""
    rows = (
        (
            one["sku"],
            milli_text(number(one, "quantity_milli")),
            seconds_text(number(one, "seconds")),
            dollars_text(number(one, "micro_dollars_per_hour")),
            dollars_text(number(one, "micro_dollars")),
        )
        for one in lines
    )
    table(("what", "how much", "time", "an hour", "cost"), rows, "nothing")


def show_usage(found: list[dict[str, Any]], as_json: bool) -> None:
    """Usage records, one a line."""
    rows = (
        (
            one.get("job_id"),
            one.get("run", 0),
            one.get("node_id"),
            time_text(number(one, "started_at_us")),
            f"{(number(one, 'ended_at_us') - number(one, 'started_at_us')) / 1_000_000:.1f} s",
            dollars_text(number(one, "micro_dollars")),
            one.get("event_id"),
        )
        for one in found
    )
    columns = ("job", "run", "node", "from", "time", "cost", "event")
    listing(found, as_json, columns, rows, "no usage yet")
