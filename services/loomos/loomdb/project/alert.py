"""Tables of alert rules, places, alerts, and who is to be told what."""

from collections.abc import Iterable

from loom.decider import Recorded, Statement
from loom.v1 import loomdb_pb2 as pb

__all__ = ["project"]


def project(record: Recorded) -> list[Statement]:
    """The statements of one event."""
    event = record.event
    match event:
        case pb.AlertRuleCreated():
            return [
                Statement(
                    "INSERT INTO alert_rules (rule_id, organisation_id, name, spec, owner, "
                    "begins_at, created_at_us, created_event_id, version) "
                    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (
                        event.rule_id,
                        event.organisation_id,
                        event.spec.name,
                        stored(event.spec),
                        event.owner,
                        event.begins_at,
                        event.at_us,
                        record.id,
                        record.version,
                    ),
                )
            ]
        case pb.AlertRuleUpdated():
            return [
                Statement(
                    "UPDATE alert_rules SET name = %s, spec = %s, owner = %s, version = %s "
                    "WHERE rule_id = %s",
                    (
                        event.spec.name,
                        stored(event.spec),
                        event.owner,
                        record.version,
                        event.rule_id,
                    ),
                )
            ]
        case pb.AlertRuleDeleted():
            return [Statement("DELETE FROM alert_rules WHERE rule_id = %s", (event.rule_id,))]
        case pb.NotifyTargetCreated():
            return [
                Statement(
                    "INSERT INTO notify_targets (target_id, organisation_id, name, plugin, sealed, "
                    "hint) VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
                    (
                        event.target_id,
                        event.organisation_id,
                        event.name,
                        event.plugin,
                        event.sealed,
                        event.hint,
                    ),
                )
            ]
        case pb.NotifyTargetDeleted():
            own = (event.target_id,)
            return [
                Statement("DELETE FROM notify_targets WHERE target_id = %s", own),
                Statement(
                    "DELETE FROM notifications WHERE target_id = %s AND status = 'pending'", own
                ),
            ]
        case pb.AlertRaised():
            return [raised(record, event), *told(record, event.alert_id, event.targets, "raised")]
        case pb.AlertSuppressed():
            return [
                Statement(
                    "UPDATE alerts SET suppressed = suppressed + %s, counted_to_us = %s "
                    "WHERE alert_id = %s AND counted_to_us < %s",
                    (event.count, event.up_to_us, event.alert_id, event.up_to_us),
                )
            ]
        case pb.AlertAcknowledged():
            return [
                Statement(
                    "UPDATE alerts SET status = %s, acknowledged_by = %s WHERE alert_id = %s",
                    (pb.ALERT_STATUS_ACKNOWLEDGED, event.by, event.alert_id),
                ),
                *told(record, event.alert_id, event.targets, "acknowledged"),
            ]
        case pb.AlertResolved():
            return [
                Statement(
                    "UPDATE alerts SET status = %s, resolved_by = %s, reason = %s "
                    "WHERE alert_id = %s",
                    (pb.ALERT_STATUS_RESOLVED, event.by, event.reason, event.alert_id),
                ),
                *told(record, event.alert_id, event.targets, "resolved"),
            ]
        case pb.NotificationDelivered():
            return [ended(event, "delivered", "")]
        case pb.NotificationFailed():
            return [ended(event, "failed", event.reason)]
    return []


def raised(record: Recorded, event: pb.AlertRaised) -> Statement:
    """The alert's row; whose eyes its rule sees with decides who may see it."""
    return Statement(
        "INSERT INTO alerts (alert_id, organisation_id, rule_id, grouped, owner, status, raised, "
        "event_id, cause_id, cause_at_us, raised_at_us, counted_to_us) "
        "VALUES (%s, %s, %s, %s, "
        "coalesce((SELECT owner FROM alert_rules WHERE rule_id = %s), ''), "
        "%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
        (
            event.alert_id,
            event.organisation_id,
            event.rule_id,
            event.group,
            event.rule_id,
            pb.ALERT_STATUS_RAISED,
            stored(event),
            record.id,
            event.cause.event_id,
            event.cause.at_us,
            event.raised_at_us,
            event.raised_at_us,
        ),
    )


def told(record: Recorded, alert_id: str, targets: Iterable[str], kind: str) -> list[Statement]:
    """Who is to be told of an event."""
    return [
        Statement(
            "INSERT INTO notifications (event_id, target_id, alert_id, organisation_id, kind, "
            "at_us, position) VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (
                record.id,
                target,
                alert_id,
                record.shard,
                kind,
                record.at_us,
                record.position.offset,
            ),
        )
        for target in targets
    ]


def ended(
    event: pb.NotificationDelivered | pb.NotificationFailed, status: str, reason: str
) -> Statement:
    """What became of telling somebody."""
    return Statement(
        "UPDATE notifications SET status = %s, attempts = %s, reason = %s "
        "WHERE event_id = %s AND target_id = %s",
        (status, event.attempts, reason, event.event_id, event.target_id),
    )


def stored(message: pb.AlertSpec | pb.AlertRaised) -> bytes:
    """A message as its own bytes, the same on every machine."""
    return message.SerializeToString(deterministic=True)
