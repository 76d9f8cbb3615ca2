"""Decides how long events are kept, what is held, and when bytes may move or go.

1. Kafka may forget only what is archived, in whole ranges from the beginning on.
2. Only content that no state is folded from is ever deleted: that of users' events.
3. An organisation has a bounded number of holds, so that checking every record stays cheap.
"""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.state import PLATFORM, Trail

__all__ = [
    "delete_archived",
    "place_hold",
    "release_hold",
    "report_archived",
    "report_run",
    "run_archive",
    "set_rules",
    "shorten_log",
]

HOLDS_MAX = 256
DELETABLE = "loomos.data"


def set_rules(command: pb.SetLogRetentionRequest, state: Trail) -> list[Message]:
    """The rules in place of those before; none where they are the same."""
    for place, rule in enumerate(command.rules):
        if rule.retain_days and rule.retain_days < rule.archive_after_days:
            raise Rejected(
                Code.INVALID_ARGUMENT,
                f"retain_days is {rule.retain_days}, less than archive_after_days "
                f"{rule.archive_after_days}: what is gone cannot be archived",
                f"rules[{place}].retain_days",
            )
    if list(command.rules) == state.retention.rules.get(command.organisation_id, []):
        return []
    return [pb.LogRetentionSet(organisation_id=command.organisation_id, rules=command.rules)]


def place_hold(command: pb.PlaceHoldRequest, state: Trail, context: Context) -> list[Message]:
    """A new hold."""
    if len(state.retention.holds) >= HOLDS_MAX:
        raise Rejected(
            Code.FAILED_PRECONDITION, f"{HOLDS_MAX} holds stand: release one or widen one", "scope"
        )
    return [
        pb.HoldPlaced(
            hold_id=context.new_id("hold"),
            organisation_id=command.organisation_id,
            scope=command.scope,
            reason=command.reason,
            placed_at_us=context.at_us,
            placed_by=context.actor,
        )
    ]


def release_hold(command: pb.ReleaseHoldRequest, state: Trail) -> list[Message]:
    """The hold's end."""
    if command.hold_id not in state.retention.holds:
        raise Rejected(Code.NOT_FOUND, f"no hold {command.hold_id!r} stands", "hold_id")
    return [
        pb.HoldReleased(
            hold_id=command.hold_id,
            organisation_id=command.organisation_id,
            reason=command.reason,
        )
    ]


def run_archive(command: pb.RunArchiveRequest, context: Context) -> list[Message]:
    """The wish that the archiver runs now."""
    if command.partition >= 0 and not command.topic:
        raise Rejected(
            Code.INVALID_ARGUMENT, f"partition is {command.partition}: of which topic?", "topic"
        )
    return [
        pb.ArchiveRequested(
            run_id=context.new_id("run"),
            organisation_id=PLATFORM,
            topic=command.topic,
            partition=command.partition,
            young_too=command.young_too,
        )
    ]


def report_run(command: pb.ReportArchiveRunRequest, state: Trail) -> list[Message]:
    """The end of a run that was asked for; once."""
    if command.run_id not in state.retention.runs:
        return []
    return [
        pb.ArchiveRunFinished(
            run_id=command.run_id,
            organisation_id=PLATFORM,
            archived=command.archived,
            rewritten=command.rewritten,
            failed=command.failed,
        )
    ]


def report_archived(command: pb.ReportArchivedRequest, state: Trail) -> list[Message]:
    """A new range behind the last one, or the next generation of one that is known."""
    told = command.range
    log_id = f"{told.topic}-{told.partition}"
    ranges = state.retention.ranges.get((told.topic, told.partition), {})
    known = ranges.get(told.first_offset)
    if known is not None:
        if (told.next_offset, told.rows, told.base_after) != (
            known.next_offset,
            known.rows,
            known.base_after,
        ):
            raise Rejected(
                Code.FAILED_PRECONDITION,
                f"{log_id} from offset {told.first_offset} is archived already, as another range",
                "range",
            )
        if told.generation <= known.generation:
            return []
        return [pb.ArchiveReplaced(log_id=log_id, organisation_id=PLATFORM, range=told)]
    end = max((one.next_offset for one in ranges.values()), default=0)
    if told.first_offset != end or told.generation or told.next_offset <= told.first_offset:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"{log_id} is archived up to offset {end}: the next range begins there",
            "range.first_offset",
        )
    return [pb.ArchiveSealed(log_id=log_id, organisation_id=PLATFORM, range=told)]


def shorten_log(command: pb.ShortenLogRequest, state: Trail) -> list[Message]:
    """That Kafka may forget whole archived ranges."""
    place = (command.topic, command.partition)
    log_id = f"{command.topic}-{command.partition}"
    for one in state.retention.ranges.get(place, {}).values():
        if one.next_offset == command.next_offset:
            break
    else:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"no archived range of {log_id} ends at offset {command.next_offset}",
            "next_offset",
        )
    if command.next_offset <= state.retention.begins.get(place, 0):
        return []
    return [
        pb.LogShortened(
            log_id=log_id,
            organisation_id=PLATFORM,
            topic=command.topic,
            partition=command.partition,
            base=one.base_after,
        )
    ]


def delete_archived(command: pb.DeleteArchivedRequest, state: Trail) -> list[Message]:
    """That the content of archived records goes."""
    place = (command.topic, command.partition)
    if command.topic != DELETABLE:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"records of {command.topic} are never deleted: states are folded from them; only "
            f"content of {DELETABLE} is",
            "topic",
        )
    known = state.retention.ranges.get(place, {}).get(command.first_offset)
    if known is None or known.next_offset > state.retention.begins.get(place, 0):
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"{command.topic}-{command.partition} has no archived range at {command.first_offset} "
            "that Kafka has forgotten",
            "first_offset",
        )
    done = state.retention.deleted.get((*place, command.first_offset), frozenset())
    offsets = sorted(set(command.offsets) - done)
    if any(not known.first_offset <= offset < known.next_offset for offset in offsets):
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"an offset is not in the range {known.first_offset} to {known.next_offset - 1}",
            "offsets",
        )
    if not offsets:
        return []
    return [
        pb.ArchiveDeleted(
            log_id=f"{command.topic}-{command.partition}",
            organisation_id=PLATFORM,
            topic=command.topic,
            partition=command.partition,
            first_offset=command.first_offset,
            offsets=offsets,
            owner_id=command.owner_id,
            policy=command.policy,
        )
    ]
