"""When a record may be archived, recompressed and deleted: pure, from rules and holds alone.

1. The first rule of the record's organisation that fits counts; a number that it leaves at 0, and a
   record that no rule fits, has the default. A record's own override says how long it is kept,
   whatever the rules say.
2. A hold wins over everything: what it keeps may be copied into the archive, but neither leaves
   Kafka, nor is written anew, nor deleted, until the hold is released.
3. Only the content of users' events is ever deleted, and of the batches that they were handed over
   in; every other event is what states are folded from. A batch goes with the last of its events:
   while one of them is kept or held, or has not become a record of its own, the whole batch stands.
"""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from loom.decider import Recorded
from loom.v1 import common_pb2, data_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.state import PLATFORM, HeldBy, Retention

__all__ = [
    "DAY_US",
    "DEFAULTS",
    "REGULATED_DAYS",
    "Due",
    "due",
    "due_of",
    "fits",
    "reduced",
]

DAY_US = 24 * 3600 * 1_000_000
DEFAULTS = pb.RetentionRule(retain_days=2555, archive_after_days=365, recompress_after_days=90)
"""Seven years; one of them in Kafka."""
REGULATED_DAYS = 3650
"""Ten years for what is under a compliance regime."""


class Facts(NamedTuple):
    """What rules and holds look at."""

    organisation_id: str
    type: str
    classification: str
    regulated: bool
    subjects: frozenset[str]
    """Streams and data subjects that a hold may name."""
    correlation_ids: frozenset[str]
    override_days: int
    appended_us: int
    deletable: bool


class Due(NamedTuple):
    """From when on what may be done with a record, microseconds since 1970."""

    archive_us: int
    recompress_us: int
    delete_us: int
    """0: never."""
    hold_id: str
    """The hold that keeps it, or ""."""
    policy: str = ""
    """What says how long it is kept, for people; "" where it is never deleted."""

    def may_archive(self, now_us: int) -> bool:
        """Whether a copy may be archived."""
        return self.archive_us <= now_us

    def may_leave(self, now_us: int) -> bool:
        """Whether Kafka may forget it, once it is archived."""
        return not self.hold_id and self.archive_us <= now_us

    def may_recompress(self, now_us: int) -> bool:
        """Whether its archived form may be replaced by a smaller one."""
        return not self.hold_id and self.recompress_us <= now_us

    def may_delete(self, now_us: int) -> bool:
        """Whether its content may go."""
        return not self.hold_id and 0 < self.delete_us <= now_us


def due_of(record: Recorded, organisation_id: str, appended_ms: int, state: Retention) -> Due:
    """When what may be done with a record; `appended_ms` is the broker's time.

    A batch carries its events: it is due when the last of them is.
    """
    whole = facts_of(record, organisation_id, appended_ms)
    if not isinstance(record.event, data_pb2.BatchAccepted):
        return due(whole, state)
    dues = [due(facts_in(one, whole), state) for one in record.event.events]
    last = max(dues, key=lambda one: one.delete_us)
    holds = [holding(whole, state.holds), *(one.hold_id for one in dues)]
    return Due(
        max(one.archive_us for one in dues),
        max(one.recompress_us for one in dues),
        last.delete_us,
        next(filter(None, holds), ""),
        last.policy,
    )


def facts_of(record: Recorded, organisation_id: str, appended_ms: int) -> Facts:
    """What rules and holds look at in a record."""
    event = record.event
    stream = frozenset((record.stream, record.actor))
    option: Any = common_pb2.event
    said = event.DESCRIPTOR.GetOptions().Extensions[option]
    whole = Facts(
        organisation_id or PLATFORM,
        record.type,
        said.classification or "internal",
        False,
        stream,
        frozenset((record.correlation_id,)),
        0,
        appended_ms * 1000,
        False,
    )
    if isinstance(event, data_pb2.EventAppended):
        told = facts_in(event, whole._replace(organisation_id=event.organisation_id))
        return told._replace(
            type=event.event_type,
            subjects=told.subjects | {event.stream_id.partition("/")[2]},
        )
    return whole


def facts_in(event: data_pb2.EventAppended | data_pb2.NewEvent, whole: Facts) -> Facts:
    """What rules and holds look at in a user's event, in a record of which this is said."""
    told = whole._replace(
        classification=event.security.data_classification,
        regulated=bool(event.context.compliance_level),
        subjects=whole.subjects | {event.data_subject},
        correlation_ids=whole.correlation_ids | {event.correlation_id},
        override_days=event.metadata.retention_override_days,
        deletable=True,
    )
    if isinstance(event, data_pb2.NewEvent):
        stream = event.stream or event.type
        told = told._replace(type=event.type, subjects=told.subjects | {stream})
    return told


def due(facts: Facts, state: Retention) -> Due:
    """When what may be done with what these facts are of."""
    rule = next(
        (one for one in state.rules.get(facts.organisation_id, ()) if applies(one, facts)),
        DEFAULTS,
    )
    retain, policy = kept_days(facts, rule)
    archive_us = facts.appended_us + DAY_US * archive_days(rule)
    return Due(
        archive_us,
        archive_us + DAY_US * (rule.recompress_after_days or DEFAULTS.recompress_after_days),
        facts.appended_us + DAY_US * retain if facts.deletable else 0,
        holding(facts, state.holds),
        f"{policy}={retain} days" if facts.deletable else "",
    )


def kept_days(facts: Facts, rule: pb.RetentionRule) -> tuple[int, str]:
    """How many days a record is kept, and what says so."""
    if facts.override_days:
        return facts.override_days, "the event's own"
    if rule is not DEFAULTS and rule.retain_days:
        classification = f":{rule.classification}" if rule.classification else ""
        return rule.retain_days, f"rule {rule.type_pattern or '*'}{classification}"
    if facts.regulated:
        return REGULATED_DAYS, "default of what is regulated"
    return DEFAULTS.retain_days, "default"


def archive_days(rule: pb.RetentionRule) -> int:
    """Days in Kafka by a rule."""
    return rule.archive_after_days or DEFAULTS.archive_after_days


def applies(rule: pb.RetentionRule, facts: Facts) -> bool:
    """Whether a rule fits a record."""
    return fits(rule.type_pattern, facts.type) and rule.classification in ("", facts.classification)


def holding(facts: Facts, holds: Mapping[str, HeldBy]) -> str:
    """The first hold, by id, that keeps a record; "" where none does."""
    return next((hold_id for hold_id in sorted(holds) if keeps(holds[hold_id], facts)), "")


def keeps(hold: HeldBy, facts: Facts) -> bool:
    """Whether a hold keeps a record."""
    return (
        hold.organisation_id in (PLATFORM, facts.organisation_id)
        and (not hold.subject or hold.subject in facts.subjects)
        and (not hold.correlation_id or hold.correlation_id in facts.correlation_ids)
        and fits(hold.type_pattern, facts.type)
    )


def fits(pattern: str, type_name: str) -> bool:
    """Whether a type is the pattern's, or begins with what stands before its `*`."""
    if pattern.endswith("*"):
        return type_name.startswith(pattern[:-1])
    return pattern in ("", type_name)


def reduced(event: data_pb2.EventAppended | data_pb2.BatchAccepted) -> bytes:
    """What stays of an event whose content is deleted: what states and rows are made from."""
    left = copy.deepcopy(event)
    if isinstance(left, data_pb2.EventAppended):
        left.payload = b"{}"
        project_id = left.context.project_id
        for name in ("context", "security", "metadata", "data_subject", "sealed_paths"):
            left.ClearField(name)
        if project_id:
            # Who may know that it is gone is who could see it.
            left.context.project_id = project_id
    else:
        for one in left.events:
            one.CopyFrom(data_pb2.NewEvent(event_id=one.event_id, type=one.type, stream=one.stream))
    return left.SerializeToString(deterministic=True)
