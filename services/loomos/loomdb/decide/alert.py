"""Decides which alert rules an organisation has, and when one raises an alert.

1. One alert for a group of a rule in its cool-down, whoever asks and how often: the times that
   count are those of the log, and an absence is judged by the time given to its decision.
2. What is tried again is bounded: a thing at most `retries_max` times for a rule, until an alert
   about it is resolved.
3. A rule is checked here, so that evaluating it later can fail on no event.
"""

import re

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import filter as filters
from loomos.loomdb.state import OpenAlert, Trail

__all__ = [
    "COOLDOWN_S",
    "RETRIES",
    "WINDOW_S",
    "acknowledge",
    "create_rule",
    "create_target",
    "delete_rule",
    "delete_target",
    "raise_alert",
    "report_notification",
    "resolve",
    "suppress",
    "update_rule",
]

RULES_MAX = 100
TARGETS_MAX = 100
OPEN_MAX = 10_000
WINDOW_S = 60
COOLDOWN_S = 300
RETRIES = 3
US = 1_000_000


def create_rule(
    command: pb.CreateAlertRuleRequest, state: Trail, context: Context
) -> list[Message]:
    """A new rule."""
    if len(state.alerts.rules) >= RULES_MAX:
        told = f"{RULES_MAX} alert rules are there: delete one first, or group by a path"
        raise Rejected(Code.RESOURCE_EXHAUSTED, told)
    return [
        pb.AlertRuleCreated(
            rule_id=context.new_id("rule"),
            organisation_id=command.organisation_id,
            spec=checked(command.spec, "", state),
            begins_at=command.begins_at,
            owner=context.actor,
            at_us=context.at_us,
        )
    ]


def update_rule(
    command: pb.UpdateAlertRuleRequest, state: Trail, context: Context
) -> list[Message]:
    """A rule that says something else; none where it says the same."""
    before = rule_of(command.rule_id, state)
    spec = checked(command.spec, command.rule_id, state)
    if spec == before:
        return []
    return [
        pb.AlertRuleUpdated(
            rule_id=command.rule_id,
            organisation_id=command.organisation_id,
            spec=spec,
            owner=context.actor,
        )
    ]


def delete_rule(command: pb.DeleteAlertRuleRequest, state: Trail) -> list[Message]:
    """The rule's end."""
    rule_of(command.rule_id, state)
    return [pb.AlertRuleDeleted(rule_id=command.rule_id, organisation_id=command.organisation_id)]


def checked(spec: pb.AlertSpec, rule_id: str, state: Trail) -> pb.AlertSpec:
    """The rule with what it leaves to us filled in; raises Rejected."""
    condition = spec.condition
    chosen = condition.selection
    filters.selection(chosen.types, chosen.where, chosen.filter, "spec.condition.selection.")
    if condition.group_by:
        check_group(condition.group_by)
    given = [
        name
        for name in ("count_min", "rate_per_minute_min", "absent_seconds")
        if getattr(condition, name)
    ]
    if len(given) != 1:
        told = f"{', '.join(given) or 'nothing'} is given: want one of count_min, "
        told += "rate_per_minute_min and absent_seconds"
        raise Rejected(Code.INVALID_ARGUMENT, told, "spec.condition")
    for other, one in state.alerts.rules.items():
        if one.name == spec.name and other != rule_id:
            told = f"an alert rule {spec.name!r} is there: choose another name"
            raise Rejected(Code.ALREADY_EXISTS, told, "spec.name")
    names = set(state.alerts.targets.values())
    for name in spec.targets:
        if name not in names:
            told = f"no place {name!r}: there are {', '.join(sorted(names)) or 'none'}"
            raise Rejected(Code.NOT_FOUND, told, "spec.targets")
    whole = pb.AlertSpec()
    whole.CopyFrom(spec)
    whole.condition.window_seconds = condition.window_seconds or WINDOW_S
    whole.cooldown_seconds = spec.cooldown_seconds or COOLDOWN_S
    whole.severity = spec.severity or pb.ALERT_SEVERITY_WARNING
    if spec.action == pb.ALERT_ACTION_RETRY:
        whole.retries_max = spec.retries_max or RETRIES
    return whole


def check_group(path: str) -> None:
    """Raise Rejected for a path that no condition could have."""
    root = path.partition(".")[0]
    if not re.fullmatch(filters.PATH, path) or root not in filters.ROOTS:
        told = f"no path {path[:80]!r}: begin with one of {', '.join(filters.ROOTS)}"
        raise Rejected(Code.INVALID_ARGUMENT, told, "spec.condition.group_by")


def create_target(
    command: pb.CreateNotifyTargetRequest, state: Trail, context: Context
) -> list[Message]:
    """A new place."""
    if command.name in state.alerts.targets.values():
        told = f"a place {command.name!r} is there: delete it first, or choose another name"
        raise Rejected(Code.ALREADY_EXISTS, told, "name")
    if len(state.alerts.targets) >= TARGETS_MAX:
        told = f"{TARGETS_MAX} places are there: delete one first"
        raise Rejected(Code.RESOURCE_EXHAUSTED, told)
    return [
        pb.NotifyTargetCreated(
            target_id=context.new_id("target"),
            organisation_id=command.organisation_id,
            name=command.name,
            plugin=command.plugin,
            sealed=command.sealed,
            hint=command.hint,
        )
    ]


def delete_target(command: pb.DeleteNotifyTargetRequest, state: Trail) -> list[Message]:
    """The place's end; refused while a rule names it."""
    name = state.alerts.targets.get(command.target_id)
    if name is None:
        raise Rejected(Code.NOT_FOUND, f"no place {command.target_id!r}", "target_id")
    users = sorted(one.name for one in state.alerts.rules.values() if name in one.targets)
    if users:
        told = f"{name!r} is told by {', '.join(users[:5])}: change these rules first"
        raise Rejected(Code.FAILED_PRECONDITION, told, "target_id")
    return [
        pb.NotifyTargetDeleted(target_id=command.target_id, organisation_id=command.organisation_id)
    ]


def raise_alert(command: pb.RaiseAlertRequest, state: Trail, context: Context) -> list[Message]:
    """An alert; none where its group has one that is too young."""
    spec, alerts = rule_of(command.rule_id, state), state.alerts
    at_us, absent_us = command.cause.at_us, spec.condition.absent_seconds * US
    if absent_us:
        if context.at_us < at_us + absent_us:
            told = f"only {(context.at_us - at_us) // US} s of silence"
            raise Rejected(Code.FAILED_PRECONDITION, told, "cause.at_us")
        at_us = context.at_us
    elif spec.action == pb.ALERT_ACTION_RETRY:
        # The cool-down is the pause between two attempts, also for a failure that waited for it.
        at_us = max(at_us, context.at_us)
    last = alerts.raised.get((command.rule_id, command.group))
    if last is not None and (
        at_us < last.at_us + spec.cooldown_seconds * US or last.cause_id == command.cause.event_id
    ):
        return []
    if len(alerts.open) >= OPEN_MAX:
        told = f"{OPEN_MAX} alerts are open: resolve some"
        raise Rejected(Code.FAILED_PRECONDITION, told)
    event = pb.AlertRaised(
        alert_id=context.new_id("alert"),
        organisation_id=command.organisation_id,
        project_id=command.cause.project_id,
        rule_id=command.rule_id,
        rule_name=spec.name,
        group=command.group,
        severity=spec.severity,
        cause=command.cause,
        evidence_ids=command.evidence_ids,
        matches=command.matches,
        targets=sorted(one for one, name in alerts.targets.items() if name in spec.targets),
        summary=summary(spec, command),
        raised_at_us=at_us,
        absence=bool(absent_us),
    )
    if spec.action == pb.ALERT_ACTION_RETRY and command.retry.thing_id and not absent_us:
        attempt = alerts.retries.get((command.rule_id, command.retry.thing_id), 0) + 1
        if attempt <= spec.retries_max:
            event.retry.CopyFrom(command.retry)
            event.retry.attempt = attempt
        else:
            event.retries_exhausted = True
    return [event]


def summary(spec: pb.AlertSpec, command: pb.RaiseAlertRequest) -> str:
    """One line for people; the words of strangers in it are bounded by the caller."""
    about = f" for {command.group}" if command.group else ""
    if spec.condition.absent_seconds:
        return f"{spec.name}: nothing{about} for {spec.condition.absent_seconds} s"
    said = f"{command.matches} in {spec.condition.window_seconds} s"
    return f"{spec.name}: {command.cause.type} at {command.cause.stream}{about} ({said})"


def suppress(command: pb.ReportAlertsSuppressedRequest, state: Trail) -> list[Message]:
    """How often the alert would have been raised again; none where that is counted already."""
    found = state.alerts.open.get(command.alert_id)
    if found is None or not command.count or command.up_to_us <= found.counted_to_us:
        return []
    return [
        pb.AlertSuppressed(
            alert_id=command.alert_id,
            organisation_id=command.organisation_id,
            count=command.count,
            up_to_us=command.up_to_us,
        )
    ]


def acknowledge(
    command: pb.AcknowledgeAlertRequest, state: Trail, context: Context
) -> list[Message]:
    """Somebody minds it; none where somebody does."""
    found = alert_of(command.alert_id, state)
    if found.minded:
        return []
    return [
        pb.AlertAcknowledged(
            alert_id=command.alert_id,
            organisation_id=command.organisation_id,
            by=context.actor,
            targets=found.targets,
        )
    ]


def resolve(command: pb.ResolveAlertRequest, state: Trail, context: Context) -> list[Message]:
    """It is over."""
    found = alert_of(command.alert_id, state)
    return [
        pb.AlertResolved(
            alert_id=command.alert_id,
            organisation_id=command.organisation_id,
            by=context.actor,
            reason=command.reason,
            targets=found.targets,
        )
    ]


def report_notification(command: pb.ReportNotificationRequest) -> list[Message]:
    """What became of a notification."""
    event = pb.NotificationDelivered if command.delivered else pb.NotificationFailed
    made = event(
        alert_id=command.alert_id,
        organisation_id=command.organisation_id,
        event_id=command.event_id,
        target_id=command.target_id,
        attempts=command.attempts,
    )
    if isinstance(made, pb.NotificationFailed):
        made.reason = command.reason
    return [made]


def rule_of(rule_id: str, state: Trail) -> pb.AlertSpec:
    """What a rule says; raises Rejected."""
    found = state.alerts.rules.get(rule_id)
    if found is None:
        raise Rejected(Code.NOT_FOUND, f"no alert rule {rule_id!r}", "rule_id")
    return found


def alert_of(alert_id: str, state: Trail) -> OpenAlert:
    """An alert that is not resolved; raises Rejected."""
    found = state.alerts.open.get(alert_id)
    if found is None:
        told = f"no alert {alert_id!r} is open: it was resolved, or never was"
        raise Rejected(Code.NOT_FOUND, told, "alert_id")
    return found
