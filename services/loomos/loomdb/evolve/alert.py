"""How alert rules, their alerts and the places that are told change with each event."""

from google.protobuf.message import Message

from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.state import Alerts, OpenAlert, Raise

__all__ = ["evolve"]

REMEMBERED_MAX = 20_000
"""Groups and things that are remembered; the oldest are forgotten first."""


def evolve(state: Alerts, event: Message) -> None:
    """Fold one event; other classes change nothing."""
    match event:
        case pb.AlertRuleCreated() | pb.AlertRuleUpdated():
            state.rules[event.rule_id] = event.spec
        case pb.AlertRuleDeleted():
            state.rules.pop(event.rule_id, None)
            for remembered in (state.raised, state.retries):
                for key in [key for key in remembered if key[0] == event.rule_id]:
                    del remembered[key]
        case pb.NotifyTargetCreated():
            state.targets[event.target_id] = event.name
        case pb.NotifyTargetDeleted():
            state.targets.pop(event.target_id, None)
        case pb.AlertRaised():
            raised(state, event)
        case pb.AlertSuppressed():
            state.open[event.alert_id].counted_to_us = event.up_to_us
        case pb.AlertAcknowledged():
            state.open[event.alert_id].minded = True
        case pb.AlertResolved():
            found = state.open.pop(event.alert_id)
            state.retries.pop((found.rule_id, found.thing_id), None)


def raised(state: Alerts, event: pb.AlertRaised) -> None:
    """An alert is open; what it tries again is counted."""
    thing = event.retry.thing_id
    state.open[event.alert_id] = OpenAlert(
        event.rule_id, event.group, thing, tuple(event.targets), False, event.raised_at_us
    )
    key = (event.rule_id, event.group)
    # The newest stands last, so that the oldest is forgotten first.
    state.raised.pop(key, None)
    state.raised[key] = Raise(event.alert_id, event.raised_at_us, event.cause.event_id)
    if len(state.raised) > REMEMBERED_MAX:
        del state.raised[next(iter(state.raised))]
    if thing:
        about = (event.rule_id, thing)
        state.retries.pop(about, None)
        state.retries[about] = event.retry.attempt
        if len(state.retries) > REMEMBERED_MAX:
            del state.retries[next(iter(state.retries))]
