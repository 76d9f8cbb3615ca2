"""Alert rules, alerts and places; those of others are answered like unknown ones.

A rule sees with the eyes of who made it, so its alerts are shown to who sees as much: else a
group's value would tell what a confidential event says.
"""

from collections.abc import Iterable
from typing import Any

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.query.subscription import may_see
from loomos.loomdb.sight import EVENTS, TRAIL, Sight

__all__ = [
    "get_alert_rule",
    "last_raised",
    "list_alert_rules",
    "list_alerts",
    "list_notify_targets",
    "pending_notifications",
    "rules_on",
]

PAGE = 100
Db = psycopg.AsyncConnection[Any]


def sight_of(principal: str, organisation: str, caller: Caller) -> Sight:
    """What a principal may see of an organisation's events."""
    judge = caller.judge
    return Sight(organisation, judge.scope(principal, TRAIL), judge.scope(principal, EVENTS))


def shown_to(caller: Caller, owner: str, organisation: str) -> bool:
    """Whether the caller sees all that a rule of this owner sees."""
    own = sight_of(caller.principal, organisation, caller)
    return own.covers(sight_of(owner, organisation, caller))


async def get_alert_rule(request: pb.GetAlertRuleRequest, caller: Caller, db: Db) -> pb.AlertRule:
    """One rule."""
    own = request.organisation_id
    if may_see(own, caller, "GetAlertRule"):
        for one in await described(own, request.rule_id, caller, db):
            return one
    raise Rejected(Code.NOT_FOUND, f"no alert rule {request.rule_id!r}", "rule_id")


async def list_alert_rules(
    request: pb.ListAlertRulesRequest, caller: Caller, db: Db
) -> pb.AlertRulePage:
    """The rules of an organisation, by name."""
    own = request.organisation_id
    if not may_see(own, caller, "ListAlertRules"):
        return pb.AlertRulePage()
    return pb.AlertRulePage(rules=await described(own, "", caller, db))


async def described(organisation: str, rule_id: str, caller: Caller, db: Db) -> list[pb.AlertRule]:
    """Rules as the contract says them; one, or all of an organisation."""
    found = await db.execute(
        "SELECT r.*, p.base, (SELECT count(*) FROM alerts a WHERE a.rule_id = r.rule_id "
        "  AND a.status <> %s) AS open FROM alert_rules r "
        "LEFT JOIN positions p ON p.projection = 'stream:' || r.rule_id "
        "WHERE r.organisation_id = %s AND %s IN ('', r.rule_id) ORDER BY r.name",
        (pb.ALERT_STATUS_RESOLVED, organisation, rule_id),
    )
    return [
        pb.AlertRule(
            rule_id=row["rule_id"],
            organisation_id=organisation,
            spec=pb.AlertSpec.FromString(row["spec"]),
            owner=row["owner"],
            blind=sight_of(row["owner"], organisation, caller).nothing,
            open=row["open"],
            cursor=row["base"] or row["begins_at"],
        )
        for row in await found.fetchall()
    ]


async def rules_on(db: Db) -> list[dict[str, Any]]:
    """The rows of all rules, each with how far it has read."""
    found = await db.execute(
        "SELECT r.*, p.base FROM alert_rules r LEFT JOIN positions p "
        "ON p.projection = 'stream:' || r.rule_id ORDER BY r.rule_id"
    )
    return await found.fetchall()


async def last_raised(rule_id: str, db: Db) -> list[dict[str, Any]]:
    """The newest alert of each group of a rule."""
    found = await db.execute(
        "SELECT DISTINCT ON (grouped) grouped, alert_id, cause_id, cause_at_us, raised_at_us, "
        "counted_to_us, status FROM alerts WHERE rule_id = %s "
        "ORDER BY grouped, raised_at_us DESC",
        (rule_id,),
    )
    return await found.fetchall()


async def list_alerts(request: pb.ListAlertsRequest, caller: Caller, db: Db) -> pb.AlertPage:
    """Alerts, newest first; those of rules that see more than the caller are left out."""
    own = request.organisation_id
    if not may_see(own, caller, "ListAlerts"):
        return pb.AlertPage()
    owners = await db.execute(
        "SELECT DISTINCT owner FROM alerts WHERE organisation_id = %s", (own,)
    )
    seen = [row["owner"] for row in await owners.fetchall()]
    seen = [owner for owner in seen if shown_to(caller, owner, own)]
    found = await db.execute(
        "SELECT * FROM alerts WHERE organisation_id = %s AND owner = ANY(%s) "
        "AND %s IN ('', alert_id) AND %s IN ('', rule_id) AND %s IN (0, status) "
        "ORDER BY raised_at_us DESC, alert_id LIMIT %s",
        (
            own,
            seen,
            request.alert_id,
            request.rule_id,
            int(request.status),
            request.limit or PAGE,
        ),
    )
    rows = await found.fetchall()
    told = await notified([row["alert_id"] for row in rows], db)
    return pb.AlertPage(
        alerts=[
            pb.Alert(
                raised=pb.AlertRaised.FromString(row["raised"]),
                event_id=row["event_id"],
                status=row["status"],
                suppressed=row["suppressed"],
                acknowledged_by=row["acknowledged_by"],
                resolved_by=row["resolved_by"],
                reason=row["reason"],
                notifications=told.get(row["alert_id"], ()),
            )
            for row in rows
        ]
    )


async def notified(alert_ids: Iterable[str], db: Db) -> dict[str, list[pb.AlertNotification]]:
    """Who was told of these alerts."""
    found = await db.execute(
        "SELECT * FROM notifications WHERE alert_id = ANY(%s) ORDER BY position, target_id",
        (list(alert_ids),),
    )
    told: dict[str, list[pb.AlertNotification]] = {}
    for row in await found.fetchall():
        one = pb.AlertNotification(
            target_id=row["target_id"],
            kind=row["kind"],
            status=row["status"],
            attempts=row["attempts"],
            reason=row["reason"],
        )
        told.setdefault(row["alert_id"], []).append(one)
    return told


async def list_notify_targets(
    request: pb.ListNotifyTargetsRequest, caller: Caller, db: Db
) -> pb.NotifyTargetPage:
    """The places of an organisation, by name, without what is secret."""
    if not may_see(request.organisation_id, caller, "ListNotifyTargets"):
        return pb.NotifyTargetPage()
    found = await db.execute(
        "SELECT t.*, (SELECT count(*) FROM notifications n WHERE n.target_id = t.target_id "
        "  AND n.status = 'pending') AS pending FROM notify_targets t "
        "WHERE t.organisation_id = %s ORDER BY t.name",
        (request.organisation_id,),
    )
    return pb.NotifyTargetPage(
        targets=[
            pb.NotifyTarget(
                target_id=row["target_id"],
                name=row["name"],
                plugin=row["plugin"],
                hint=row["hint"],
                pending=row["pending"],
            )
            for row in await found.fetchall()
        ]
    )


async def pending_notifications(limit: int, db: Db) -> list[dict[str, Any]]:
    """The oldest notifications of each place that are to be told, so many a place at most."""
    found = await db.execute(
        "SELECT t.target_id, t.organisation_id, t.name, t.plugin, t.sealed, n.event_id, "
        "  n.alert_id, n.kind, n.at_us, a.raised, a.acknowledged_by, a.resolved_by, a.reason "
        "FROM notify_targets t, LATERAL (SELECT * FROM notifications n "
        "  WHERE n.target_id = t.target_id AND n.status = 'pending' "
        "  ORDER BY n.position LIMIT %s) n "
        "JOIN alerts a USING (alert_id) ORDER BY t.target_id, n.position",
        (limit,),
    )
    return await found.fetchall()
