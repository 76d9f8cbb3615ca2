"""Rules of alerting: what a rule may say, when it raises, what is tried again and how often."""

from tests.given import NOW_US, given

import loomos.loomdb as loomdb
from loom.decider import Code
from loom.v1 import loomdb_pb2 as pb

S = 1_000_000


def spec(name="failed", targets=(), retry=0, **condition):
    made = pb.AlertSpec(
        name=name,
        condition=pb.AlertCondition(
            selection=pb.EventSelection(types=["model.*"]), **(condition or {"count_min": 1})
        ),
        severity=pb.ALERT_SEVERITY_CRITICAL,
        targets=targets,
    )
    if retry:
        made.action, made.retries_max = pb.ALERT_ACTION_RETRY, retry
    return made


def create(of=None, org="acme"):
    return pb.CreateAlertRuleRequest(organisation_id=org, spec=of or spec())


def organisation(*events):
    return given(loomdb, *events, shard="acme")


def with_rule(of=None):
    after = organisation().when(create(of), actor="user:u").accepted()
    (rule_id,) = after.state.alerts.rules
    return after, rule_id


def crossing(rule_id, cause="e.1", at_us=NOW_US, thing="", group=""):
    return pb.RaiseAlertRequest(
        organisation_id="acme",
        rule_id=rule_id,
        group=group,
        cause=pb.AlertCause(
            event_id=cause, type="model.deployment.failed", stream="m", at_us=at_us
        ),
        matches=1,
        retry=pb.AlertRetry(thing_id=thing) if thing else None,
    )


def test_a_rule_gets_what_it_leaves_to_us():
    made = organisation().when(create(), actor="user:u").one(pb.AlertRuleCreated)
    assert (made.spec.cooldown_seconds, made.spec.condition.window_seconds) == (300, 60)
    assert made.owner == "user:u"


def test_one_threshold_and_a_path_that_there_is():
    refused = organisation().when(create(spec(count_min=1, absent_seconds=5)))
    refused.refused(Code.INVALID_ARGUMENT, "spec.condition")
    bare = spec()
    bare.condition.count_min = 0
    organisation().when(create(bare)).refused(Code.INVALID_ARGUMENT, "spec.condition")
    odd = spec(count_min=1, group_by="__class__.x")
    organisation().when(create(odd)).refused(Code.INVALID_ARGUMENT, "spec.condition.group_by")
    wrong = spec()
    wrong.condition.selection.where.append("payload.a ~ .*")
    organisation().when(create(wrong)).refused(
        Code.INVALID_ARGUMENT, "spec.condition.selection.where[0]"
    )


def test_rules_are_bounded_and_named_once():
    after, rule_id = with_rule()
    after.when(create()).refused(Code.ALREADY_EXISTS, "spec.name")
    events = [
        pb.AlertRuleCreated(rule_id=f"rule-{n}", organisation_id="acme", spec=spec(f"r{n}"))
        for n in range(100)
    ]
    organisation(*events).when(create()).refused(Code.RESOURCE_EXHAUSTED)
    change = pb.UpdateAlertRuleRequest(organisation_id="acme", rule_id=rule_id, spec=spec("new"))
    assert after.when(change).one(pb.AlertRuleUpdated).spec.name == "new"
    unknown = pb.UpdateAlertRuleRequest(organisation_id="acme", rule_id="rule-x", spec=spec())
    after.when(unknown).refused(Code.NOT_FOUND, "rule_id")


def test_an_alert_is_raised_once_in_its_cool_down():
    after, rule_id = with_rule()
    raised = after.when(crossing(rule_id)).accepted()
    raised.when(crossing(rule_id, "e.2", NOW_US + 299 * S), command_id="c-2").then()
    # Another group, and the same one later.
    raised.when(crossing(rule_id, "e.2", group="other"), command_id="c-2").one(pb.AlertRaised)
    later = raised.when(crossing(rule_id, "e.3", NOW_US + 300 * S), command_id="c-3")
    assert later.one(pb.AlertRaised).severity == pb.ALERT_SEVERITY_CRITICAL


def test_a_replay_raises_nothing_though_its_cool_down_is_over():
    after, rule_id = with_rule()
    raised = after.when(crossing(rule_id)).accepted()
    raised.when(crossing(rule_id, "e.1", NOW_US + 900 * S), command_id="c-2").then()


def test_silence_is_judged_by_the_time_of_the_decision():
    after, rule_id = with_rule(spec(absent_seconds=60))
    early = after.when(crossing(rule_id), at_us=NOW_US + 59 * S)
    early.refused(Code.FAILED_PRECONDITION, "cause.at_us")
    made = after.when(crossing(rule_id), at_us=NOW_US + 60 * S).one(pb.AlertRaised)
    assert made.absence and made.raised_at_us == NOW_US + 60 * S


def test_retries_are_bounded_until_somebody_resolves():
    after, rule_id = with_rule(spec(retry=2))
    for n in range(1, 3):
        step = after.when(
            crossing(rule_id, f"e.{n}", NOW_US + n * 300 * S, "dep-1"), command_id=f"c-{n}"
        )
        made = step.one(pb.AlertRaised)
        assert made.retry.attempt == n and not made.retries_exhausted
        after = step.accepted()
    third = after.when(crossing(rule_id, "e.3", NOW_US + 900 * S, "dep-1"), command_id="c-3")
    made = third.one(pb.AlertRaised)
    assert made.retries_exhausted and not made.HasField("retry")
    other = after.when(crossing(rule_id, "e.4", NOW_US + 900 * S, "dep-2"), command_id="c-4")
    assert other.one(pb.AlertRaised).retry.attempt == 1
    newest = next(reversed(after.state.alerts.open))
    resolve = pb.ResolveAlertRequest(organisation_id="acme", alert_id=newest)
    after = after.when(resolve, command_id="c-5").accepted()
    again = after.when(crossing(rule_id, "e.5", NOW_US + 900 * S, "dep-1"), command_id="c-6")
    assert again.one(pb.AlertRaised).retry.attempt == 1


def test_what_is_suppressed_is_counted_once():
    after, rule_id = with_rule()
    raised = after.when(crossing(rule_id)).accepted()
    (alert_id,) = raised.state.alerts.open
    count = pb.ReportAlertsSuppressedRequest(
        organisation_id="acme", alert_id=alert_id, count=7, up_to_us=NOW_US + S
    )
    counted = raised.when(count).accepted()
    counted.when(count, command_id="c-2").then()


def test_an_alert_is_acknowledged_and_resolved_by_somebody():
    after, rule_id = with_rule()
    raised = after.when(crossing(rule_id)).accepted()
    (alert_id,) = raised.state.alerts.open
    minded = raised.when(
        pb.AcknowledgeAlertRequest(organisation_id="acme", alert_id=alert_id), actor="user:u"
    )
    assert minded.one(pb.AlertAcknowledged).by == "user:u"
    twice = pb.AcknowledgeAlertRequest(organisation_id="acme", alert_id=alert_id)
    minded.accepted().when(twice).then()
    resolve = pb.ResolveAlertRequest(organisation_id="acme", alert_id=alert_id, reason="done")
    resolved = minded.accepted().when(resolve).accepted()
    resolved.when(resolve, command_id="c-9").refused(Code.NOT_FOUND, "alert_id")


def test_a_place_that_a_rule_names_stays():
    target = pb.CreateNotifyTargetRequest(
        organisation_id="acme", name="hook", plugin="webhook", sealed="sealed:1:x"
    )
    organisation().when(create(spec(targets=["hook"]))).refused(Code.NOT_FOUND, "spec.targets")
    after = organisation().when(target).accepted()
    (target_id,) = after.state.alerts.targets
    after.when(target).refused(Code.ALREADY_EXISTS, "name")
    named = after.when(create(spec(targets=["hook"]))).accepted()
    end = pb.DeleteNotifyTargetRequest(organisation_id="acme", target_id=target_id)
    named.when(end).refused(Code.FAILED_PRECONDITION, "target_id")
    (rule_id,) = named.state.alerts.rules
    assert list(named.when(crossing(rule_id)).one(pb.AlertRaised).targets) == [target_id]
    after.when(end).one(pb.NotifyTargetDeleted)
