"""`loomos alerts`: rules over the stream of events, the alerts that they raise, who is told."""

from typing import Annotated, Any

import typer

from loomos.cli import alerts_rules, alerts_targets
from loomos.cli.admin import Org
from loomos.cli.amounts import time_text
from loomos.cli.door import AsOf, Door, place_of, segment
from loomos.cli.show import Json, done, listing, number, short

__all__ = ["app"]

app = typer.Typer(help="Alerts: rules, what they raised, who is told.", no_args_is_help=True)
app.add_typer(alerts_rules.app, name="rules")
app.add_typer(alerts_targets.app, name="targets")


@app.command("list")
def list_alerts(
    alert_id: Annotated[str, typer.Option("--alert", help="This one only.")] = "",
    rule_id: Annotated[str, typer.Option("--rule", help="Of this rule, by its id.")] = "",
    status: Annotated[str, typer.Option(help="raised, acknowledged or resolved.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    organisation: Org = "",
    as_of: AsOf = "",
    as_json: Json = False,
) -> None:
    """Show alerts, newest first. Example: loomos alerts list --status raised"""
    asked: dict[str, Any] = {"alert_id": alert_id, "rule_id": rule_id, "limit": limit}
    if status:
        asked["status"] = f"ALERT_STATUS_{status.upper()}"
    with Door.open(as_of=as_of) as door:
        path = place_of(door, organisation, "alerts")
        found = door.call("GET", path, params=asked).get("alerts", [])
    rows = (
        (
            time_text(number(one["raised"], "raised_at_us")),
            short(one["raised"].get("severity"), "ALERT_SEVERITY_").lower(),
            short(one.get("status"), "ALERT_STATUS_").lower(),
            one["raised"].get("summary", ""),
            number(one, "suppressed"),
            retried(one["raised"]),
            told(one),
            one["raised"]["alert_id"],
        )
        for one in found
    )
    columns = ("raised", "severity", "status", "what", "again", "retry", "told", "id")
    listing(found, as_json, columns, rows, "no alert that you may see")


def retried(raised: dict[str, Any]) -> str:
    """What the platform tried by itself."""
    if raised.get("retries_exhausted"):
        return "exhausted"
    retry = raised.get("retry")
    return f"attempt {retry['attempt']}" if retry else ""


def told(alert: dict[str, Any]) -> str:
    """How many notifications came to what."""
    found = [one.get("status", "") for one in alert.get("notifications", [])]
    return ", ".join(f"{found.count(word)} {word}" for word in sorted(set(found)))


@app.command("ack")
def acknowledge(alert_id: str, organisation: Org = "", as_json: Json = False) -> None:
    """Say that you mind an alert. Example: loomos alerts ack alert-acme-…"""
    with Door.open() as door:
        path = place_of(door, organisation, f"alerts/{segment(alert_id)}/acknowledge")
        answer = door.call("POST", path, {})
    done(f"alert {alert_id} is yours", answer, as_json)


@app.command("resolve")
def resolve(
    alert_id: str,
    reason: Annotated[str, typer.Option(help="Why it is over.")] = "",
    organisation: Org = "",
    as_json: Json = False,
) -> None:
    """Say that an alert is over; what it tried again is counted anew.

    Example: loomos alerts resolve alert-acme-… --reason "fixed in version 7"
    """
    with Door.open() as door:
        path = place_of(door, organisation, f"alerts/{segment(alert_id)}/resolve")
        answer = door.call("POST", path, {"reason": reason})
    done(f"alert {alert_id} is resolved", answer, as_json)
