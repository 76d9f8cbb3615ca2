"""Decides which subscriptions an organisation has, and what becomes of their dead letters.

1. What a subscription selects is checked here, so that it can be asked of every event later.
2. How far consumers are is no decision: it moves with each settled delivery, and the log hears of
   it now and then only (ADR 0023).
"""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import filter as filters
from loomos.loomdb.state import Subscribed, Trail

__all__ = ["advance", "bury", "create", "delete", "replay"]

SUBSCRIPTIONS_MAX = 100
LETTERS_MAX = 10_000
REPLAYED_MAX = 1000
ACK_DEADLINE_MS = 30_000
ACK_DEADLINE_MS_MIN = 100
DELIVERIES = 5


def create(command: pb.CreateSubscriptionRequest, state: Trail, context: Context) -> list[Message]:
    """A new subscription."""
    chosen = command.selection
    filters.selection(chosen.types, chosen.where, chosen.filter, "selection.")
    if any(one.name == command.name for one in state.subscriptions.values()):
        told = f"a subscription {command.name!r} is there: delete it first, or choose another name"
        raise Rejected(Code.ALREADY_EXISTS, told, "name")
    if len(state.subscriptions) >= SUBSCRIPTIONS_MAX:
        told = f"{SUBSCRIPTIONS_MAX} subscriptions are there: delete one first"
        raise Rejected(Code.RESOURCE_EXHAUSTED, told)
    if 0 < command.ack_deadline_ms < ACK_DEADLINE_MS_MIN:
        told = f"ack_deadline_ms is {command.ack_deadline_ms}, want {ACK_DEADLINE_MS_MIN} or more"
        raise Rejected(Code.INVALID_ARGUMENT, told, "ack_deadline_ms")
    return [
        pb.SubscriptionCreated(
            subscription_id=context.new_id("subscription"),
            organisation_id=command.organisation_id,
            name=command.name,
            selection=chosen,
            begins_at=command.begins_at,
            ack_deadline_ms=command.ack_deadline_ms or ACK_DEADLINE_MS,
            deliveries_max=command.deliveries_max or DELIVERIES,
            created_by=context.actor,
            created_at_us=context.at_us,
        )
    ]


def delete(command: pb.DeleteSubscriptionRequest, state: Trail) -> list[Message]:
    """The subscription's end."""
    known(command.subscription_id, state)
    return [
        pb.SubscriptionDeleted(
            subscription_id=command.subscription_id, organisation_id=command.organisation_id
        )
    ]


def bury(command: pb.ReportDeadDeliveriesRequest, state: Trail) -> list[Message]:
    """New dead letters; one that was replayed in vain keeps its number."""
    found = known(command.subscription_id, state)
    fresh = sum(letter.number not in found.letters for letter in command.letters)
    if len(found.letters) + fresh > LETTERS_MAX:
        told = f"{LETTERS_MAX} dead letters wait: replay them, or delete the subscription"
        raise Rejected(Code.RESOURCE_EXHAUSTED, told, "letters")
    event = pb.DeliveriesBuried(
        subscription_id=command.subscription_id, organisation_id=command.organisation_id
    )
    number = found.numbered
    for letter in command.letters:
        buried = event.letters.add()
        buried.CopyFrom(letter)
        if letter.number not in found.letters:
            number += 1
            buried.number = number
    return [event] if event.letters else []


def replay(command: pb.ReplayDeadDeliveriesRequest, state: Trail) -> list[Message]:
    """Dead letters that are to be delivered again; none where all of them are already."""
    found = known(command.subscription_id, state)
    for number in command.numbers:
        if number not in found.letters:
            raise Rejected(Code.NOT_FOUND, f"no dead letter {number}", "numbers")
    asked = sorted(set(command.numbers)) or sorted(found.letters)
    waiting = [number for number in asked if not found.letters[number]][:REPLAYED_MAX]
    if not waiting:
        return []
    return [
        pb.DeliveriesReplayed(
            subscription_id=command.subscription_id,
            organisation_id=command.organisation_id,
            numbers=waiting,
        )
    ]


def advance(command: pb.ReportProgressRequest, state: Trail) -> list[Message]:
    """How far the consumers are."""
    known(command.subscription_id, state)
    return [
        pb.SubscriptionAdvanced(
            subscription_id=command.subscription_id,
            organisation_id=command.organisation_id,
            cursor=command.cursor,
            replayed=command.replayed,
        )
    ]


def known(subscription_id: str, state: Trail) -> Subscribed:
    """The subscription; raises Rejected."""
    found = state.subscriptions.get(subscription_id)
    if found is None:
        told = f"no subscription {subscription_id!r}"
        raise Rejected(Code.NOT_FOUND, told, "subscription_id")
    return found
