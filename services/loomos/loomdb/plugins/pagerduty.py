"""Tells PagerDuty by its Events API v2: an alert triggers, acknowledges and resolves one incident,
which its id names (`dedup_key`); the routing key is the secret."""

import json
import re

from loomos.loomdb.plugins import Notice, Refused, Settings
from loomos.loomdb.plugins.outbound import post

__all__ = ["check", "event_of", "tell"]

URL = "https://events.pagerduty.com/v2/enqueue"
ACTIONS = {"raised": "trigger", "acknowledged": "acknowledge", "resolved": "resolve"}
SUMMARY_MAX = 1024


def check(address: str, secret: str, settings: Settings) -> str:
    """The service; raises Refused."""
    if address:
        raise Refused("PagerDuty has an address of its own: leave it out")
    if not re.fullmatch(r"[A-Za-z0-9]{32}", secret):
        raise Refused("the secret is no routing key: want 32 letters and digits")
    return "events.pagerduty.com"


async def tell(notice: Notice, address: str, secret: str, settings: Settings) -> None:
    """Send the event."""
    body = json.dumps(event_of(notice, secret)).encode()
    await post(settings.get("LOOMOS_PAGERDUTY_URL", URL), {}, body, settings)


def event_of(notice: Notice, routing_key: str) -> dict[str, object]:
    """The event as the API wants it."""
    event: dict[str, object] = {
        "routing_key": routing_key,
        "event_action": ACTIONS[notice.kind],
        "dedup_key": notice.alert_id,
    }
    if notice.kind == "raised":
        event["payload"] = {
            "summary": notice.summary[:SUMMARY_MAX],
            "source": f"loomos/{notice.organisation}",
            "severity": notice.severity,
            "timestamp": notice.time,
            "custom_details": notice.data,
        }
    return event
