"""`loomos alerts rules`: which events are worth an alert."""

from typing import Annotated, Any

import typer

from loomos.cli.admin import Org
from loomos.cli.amounts import seconds_of
from loomos.cli.door import AsOf, Door, place_of, segment
from loomos.cli.show import Json, done, fields, listing, print_json, short

__all__ = ["app"]

app = typer.Typer(help="Which events are worth an alert.", no_args_is_help=True)

Texts = list[str] | None


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What to call it, e.g. production-failed.")],
    types: Annotated[Texts, typer.Option("--type", help="A type, or a beginning*; repeat.")] = None,
    where: Annotated[Texts, typer.Option(help="A condition, PATH OPERATOR VALUE; repeat.")] = None,
    count: Annotated[int, typer.Option(min=0, help="So many in a window.")] = 0,
    rate: Annotated[int, typer.Option(min=0, help="So many a minute, over a window.")] = 0,
    absent: Annotated[str, typer.Option(help="None for so long, e.g. 10m.")] = "",
    window: Annotated[str, typer.Option(help="The window, e.g. 5m.")] = "60s",
    group_by: Annotated[str, typer.Option(help="A path: each value by itself.")] = "",
    severity: Annotated[str, typer.Option(help="info, warning or critical.")] = "warning",
    cooldown: Annotated[str, typer.Option(help="No second alert for so long.")] = "5m",
    targets: Annotated[Texts, typer.Option("--tell", help="A target's name; repeat.")] = None,
    retry: Annotated[int, typer.Option(min=0, help="Try again so often what failed.")] = 0,
    replace: Annotated[str, typer.Option(help="Id of the rule that this one replaces.")] = "",
    organisation: Org = "",
    as_json: Json = False,
) -> None:
    """Make a rule, or change one; without a threshold each event raises an alert.

    Example: loomos alerts rules create production-failed --type 'model.deployment.*'
    --where 'payload.environment = production' --where 'payload.status = failed'
    --severity critical --retry 3
    """
    silence = seconds_of("--absent", absent) if absent else 0
    condition: dict[str, Any] = {
        "selection": {"types": types or [], "where": where or []},
        "window_seconds": seconds_of("--window", window),
        "count_min": count if count or rate or silence else 1,
        "rate_per_minute_min": rate,
        "absent_seconds": silence,
        "group_by": group_by,
    }
    spec: dict[str, Any] = {
        "name": name,
        "condition": condition,
        "severity": f"ALERT_SEVERITY_{severity.upper()}",
        "cooldown_seconds": seconds_of("--cooldown", cooldown),
        "targets": targets or [],
    }
    if retry:
        spec |= {"action": "ALERT_ACTION_RETRY", "retries_max": retry}
    path, method = "alerts/rules", "POST"
    if replace:
        path, method = f"alerts/rules/{segment(replace)}", "PUT"
    with Door.open() as door:
        answer = door.call(method, place_of(door, organisation, path), {"spec": spec})
    done(f"rule {answer.get('id', replace)} counts from now on", answer, as_json)


@app.command("list")
def list_rules(organisation: Org = "", as_of: AsOf = "", as_json: Json = False) -> None:
    """Show the rules. Example: loomos alerts rules list --json"""
    with Door.open(as_of=as_of) as door:
        found = door.call("GET", place_of(door, organisation, "alerts/rules")).get("rules", [])
    rows = (
        (
            one["spec"]["name"],
            threshold(one["spec"]["condition"]),
            short(one["spec"].get("severity"), "ALERT_SEVERITY_").lower(),
            one.get("open", 0),
            "sees nothing" if one.get("blind") else "",
            one["rule_id"],
        )
        for one in found
    )
    listing(found, as_json, ("name", "when", "severity", "open", "", "id"), rows, "no alert rule")


def threshold(condition: dict[str, Any]) -> str:
    """When a rule raises an alert, in words."""
    window = condition.get("window_seconds", 0)
    if seconds := condition.get("absent_seconds"):
        said = f"none for {seconds} s"
    elif rate := condition.get("rate_per_minute_min"):
        said = f"{rate}/min over {window} s"
    else:
        said = f"{condition.get('count_min', 0)} in {window} s"
    by = condition.get("group_by")
    return f"{said} by {by}" if by else said


@app.command("show")
def show(rule_id: str, organisation: Org = "", as_of: AsOf = "", as_json: Json = False) -> None:
    """Show one rule. Example: loomos alerts rules show rule-acme-…"""
    with Door.open(as_of=as_of) as door:
        path = place_of(door, organisation, f"alerts/rules/{segment(rule_id)}")
        found = door.call("GET", path)
    if as_json:
        print_json(found)
        return
    spec = found["spec"]
    chosen = spec["condition"].get("selection", {})
    fields(
        (
            ("rule", found["rule_id"]),
            ("name", spec["name"]),
            ("types", ", ".join(chosen.get("types", []))),
            ("where", "; ".join(chosen.get("where", []))),
            ("when", threshold(spec["condition"])),
            ("severity", short(spec.get("severity"), "ALERT_SEVERITY_").lower()),
            ("cool-down", f"{spec.get('cooldown_seconds', 0)} s"),
            ("tells", ", ".join(spec.get("targets", []))),
            ("retries", spec.get("retries_max", 0)),
            ("owner", found.get("owner", "")),
            ("open alerts", found.get("open", 0)),
        )
    )


@app.command("delete")
def delete(rule_id: str, organisation: Org = "", as_json: Json = False) -> None:
    """End a rule; its alerts stay. Example: loomos alerts rules delete rule-acme-…"""
    with Door.open() as door:
        path = place_of(door, organisation, f"alerts/rules/{segment(rule_id)}")
        answer = door.call("DELETE", path)
    done(f"rule {rule_id} counts no more", answer, as_json)
