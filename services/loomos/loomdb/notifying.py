"""Tells places of alerts: each place has its own queue, in the table of what is to be told.

1. What is told is what the log says: nothing is sent before the tables have come to where the log
   stood when they were looked at, so that a rebuild tells nobody anything twice.
2. A place is told in the log's order, one notice at a time, tried again with growing pauses, and
   ends in `notification.delivered` or `notification.failed`; a place that hangs waits alone.
3. At least once: a notice has the same id each time.
"""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict

from loom.kit.errors import Failure
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.plugins import Notice, Undelivered, named
from loomos.loomdb.query.alert import pending_notifications
from loomos.loomdb.query.place import AWAY, projected
from loomos.loomdb.sealed_target import opened

__all__ = ["ATTEMPTS", "notice_of", "notify"]

ATTEMPTS = 6
PAUSE_S = 1.0
LOOK_S = 0.3
QUEUE = 20
PLACES_MAX = 256
PLACES_OF_ONE_MAX = 16
REASON_MAX = 300
TOPIC = "loomos.loomdb"


async def notify(shell: Any, tail: Any, pause_s: float = PAUSE_S) -> None:
    """Tell what is to be told, for as long as the process lives."""
    await first_rule(shell)
    done: set[tuple[str, str]] = set()
    running: dict[str, tuple[str, asyncio.Task[None]]] = {}
    async with asyncio.TaskGroup() as tasks:
        while True:
            await asyncio.sleep(LOOK_S)
            waiting = await queues(shell, tail, done)
            running = {key: one for key, one in running.items() if not one[1].done()}
            busy = Counter(organisation for organisation, _ in running.values())
            for target, rows in waiting.items():
                organisation = rows[0]["organisation_id"]
                if target in running or len(running) >= PLACES_MAX:
                    continue
                if busy[organisation] >= PLACES_OF_ONE_MAX:
                    continue
                busy[organisation] += 1
                task = tasks.create_task(tell_place(shell, rows, done, pause_s))
                running[target] = (organisation, task)


async def first_rule(shell: Any) -> None:
    """Wait for the first place: who has none needs nothing of the log read."""
    while True:
        try:
            async with shell.db() as db:
                found = await db.execute("SELECT 1 FROM notify_targets LIMIT 1")
                if await found.fetchone():
                    return
        except AWAY:
            pass
        await asyncio.sleep(LOOK_S)


async def queues(
    shell: Any, tail: Any, done: set[tuple[str, str]]
) -> dict[str, list[dict[str, Any]]]:
    """What waits for each place, of organisations that are owned here."""
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        await tail.started()
        log = {place: at for place, at in tail.head.items() if place[0] == TOPIC}
        async with shell.db() as db:
            tables = {place: base.offset for place, base in (await projected(db)).items()}
            if any(tables.get(place, 0) < at for place, at in log.items()):
                return {}
            rows = await pending_notifications(QUEUE, db)
    except (Failure, *AWAY):
        return {}
    keys = {(row["event_id"], row["target_id"]) for row in rows}
    done &= keys
    for row in rows:
        owned = shell.ownership.owns(row["organisation_id"])
        if owned and (row["event_id"], row["target_id"]) not in done:
            found.setdefault(row["target_id"], []).append(row)
    return found


async def tell_place(
    shell: Any, rows: list[dict[str, Any]], done: set[tuple[str, str]], pause_s: float
) -> None:
    """Tell one place what waits for it, in order."""
    for row in rows:
        attempts, reason = await told(shell, row, pause_s)
        report = pb.ReportNotificationRequest(
            organisation_id=row["organisation_id"],
            alert_id=row["alert_id"],
            event_id=row["event_id"],
            target_id=row["target_id"],
            delivered=not reason,
            attempts=attempts,
            reason=reason[:REASON_MAX],
        )
        try:
            await shell.tell(report, key=f"told\0{row['target_id']}", causation_id=row["event_id"])
        except Failure as failure:
            # It is told again, under the same id, and reported then.
            shell.log.warning("a notification is unreported", reason=failure.message)
            return
        done.add((row["event_id"], row["target_id"]))


async def told(shell: Any, row: dict[str, Any], pause_s: float) -> tuple[int, str]:
    """How often a notice was tried, and why it failed; empty where it was taken."""
    notice = notice_of(row)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            address, secret = await opened(row, shell)
            await named(row["plugin"]).tell(notice, address, secret, shell.settings.environ)
            return attempt, ""
        except Undelivered as error:
            if not error.again or attempt == ATTEMPTS:
                return attempt, error.reason
        except Exception as error:  # noqa: BLE001 - a plugin of anybody's must not end the others
            shell.log.error("a plugin broke down", plugin=row["plugin"], error=repr(error))
            return attempt, f"the plugin broke down: {type(error).__name__}"
        await asyncio.sleep(pause_s * 2 ** (attempt - 1))
    raise AssertionError("the last attempt returns")


def notice_of(row: dict[str, Any]) -> Notice:
    """What a place is told of a row."""
    raised = pb.AlertRaised.FromString(row["raised"])
    by = {"acknowledged": row["acknowledged_by"], "resolved": row["resolved_by"]}
    severity = pb.AlertSeverity.Name(raised.severity).removeprefix("ALERT_SEVERITY_").lower()
    data = MessageToDict(raised, preserving_proto_field_name=True)
    data.pop("targets", None)
    if row["kind"] == "resolved" and row["reason"]:
        data["resolved_because"] = row["reason"]
    return Notice(
        id=row["event_id"],
        kind=row["kind"],
        time=datetime.fromtimestamp(row["at_us"] / 1e6, UTC).isoformat().replace("+00:00", "Z"),
        alert_id=row["alert_id"],
        organisation=row["organisation_id"],
        severity=severity,
        summary=raised.summary,
        by=by.get(row["kind"], ""),
        data=data,
    )
