"""Consumers of subscriptions: they take deliveries and settle them, at the owner of the shard.

A consumer that is slow holds what it was given until its deadline, and nothing else: each answer is
leased when the transport asks for it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from loom.decider import Resource
from loom.kit.authorize import VIEW_STALE, Caller
from loom.kit.entries import stale_view
from loom.kit.errors import WRONG_OWNER, Failure
from loom.log.topics import partition_of
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.query.subscription import kept, unknown
from loomos.loomdb.sight import Rights
from loomos.loomdb.state import PLATFORM
from loomos.loomdb.stream.delivery import Dispatcher
from loomos.loomdb.stream.subscription import (
    BATCH,
    STREAM_S_MAX,
    admitted,
    recorded_as_read,
    shown,
)

if TYPE_CHECKING:
    from loom.kit.service import Shell

__all__ = ["consume_subscription", "settle_deliveries"]

UNSETTLED = 100
LOOK_S = 1.0


class Here:
    """The subscriptions that this process delivers."""

    def __init__(self) -> None:
        self.dispatchers: dict[str, Dispatcher] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.starting = asyncio.Lock()


HERE: WeakKeyDictionary[Any, Here] = WeakKeyDictionary()


async def consume_subscription(
    request: pb.ConsumeSubscriptionRequest, caller: Caller, shell: "Shell"
) -> AsyncIterator[pb.DeliveryFlow]:
    """Deliveries for one consumer, for as long as it may see what is delivered."""
    await owned_here(request.organisation_id, shell)
    limit, unsettled_max = request.batch_size or BATCH, request.unsettled_max or UNSETTLED
    rights = Rights(shell.authorizer, caller.principal, request.organisation_id)
    with admitted(caller, shell):
        await standing(request, caller, shell)
        await recorded_as_read(request, caller, shell)
        ends_at = time.monotonic() + STREAM_S_MAX
        dispatcher = await dispatcher_of(request, caller, shell)
        # Nothing is awaited between: what nobody consumes ends after a while.
        async with dispatcher.consumer() as name:
            yield pb.DeliveryFlow()
            while not dispatcher.ended:
                changed = dispatcher.changed
                if may_take(rights, dispatcher, request, caller):
                    room = unsettled_max - dispatcher.window.held_by(name)
                    deliveries = dispatcher.lease(name, min(limit, room)) if room > 0 else []
                    if deliveries:
                        flow = pb.DeliveryFlow(deliveries=deliveries)
                        await shown(flow, request.upcast, caller, shell)
                        yield flow
                        continue
                if time.monotonic() > ends_at:
                    raise Failure("UNAVAILABLE", "the stream is old: consume again")
                await changed_within(changed, LOOK_S)
        raise Failure("UNAVAILABLE", f"{request.subscription_id}: {dispatcher.ended}")


async def settle_deliveries(
    request: pb.SettleDeliveriesRequest, caller: Caller, shell: "Shell"
) -> AsyncIterator[pb.SettledDeliveries]:
    """Settle deliveries: one answer."""
    await owned_here(request.organisation_id, shell)
    await standing(request, caller, shell)
    dispatcher = here(shell).dispatchers.get(request.subscription_id)
    answer = pb.SettledDeliveries()
    for ids, done in ((request.done, True), (request.failed, False)):
        for delivery_id in ids:
            if dispatcher is not None and dispatcher.settle(delivery_id, done):
                answer.settled += 1
            else:
                answer.unknown.append(delivery_id)
    if dispatcher is not None:
        dispatcher.settled()
    yield answer


def may_take(
    rights: Rights,
    dispatcher: Dispatcher,
    request: pb.ConsumeSubscriptionRequest,
    caller: Caller,
) -> bool:
    """Whether the consumer sees all that the maker sees; False while that is not known."""
    own, makers = rights.now(), dispatcher.rights.now()
    if own is None or makers is None:
        return False
    if makers.nothing:
        told = "who made the subscription may see nothing any more: make another one"
        raise Failure("FAILED_PRECONDITION", told)
    try:
        may = allowed(request.organisation_id, "ConsumeSubscription", caller)
    except Failure:
        return False
    if not may or not own.covers(makers):
        told = "you may not see all that this subscription delivers: make one of your own"
        raise Failure("PERMISSION_DENIED", told)
    return True


async def changed_within(changed: asyncio.Event, seconds: float) -> None:
    """Wait for a change, so long at most."""
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return


async def dispatcher_of(
    request: pb.ConsumeSubscriptionRequest, caller: Caller, shell: "Shell"
) -> Dispatcher:
    """The subscription under way here, started where it is not; raises Rejected."""
    own = here(shell)
    async with own.starting:
        found = await standing(request, caller, shell)
        dispatcher = own.dispatchers.get(request.subscription_id)
        if dispatcher is None or dispatcher.ended:
            dispatcher = Dispatcher(shell, found.created)
            await dispatcher.start(found)
            own.dispatchers[request.subscription_id] = dispatcher
            task = asyncio.create_task(dispatcher.run())
            own.tasks.add(task)
            task.add_done_callback(own.tasks.discard)
        return dispatcher


async def standing(request: Any, caller: Caller, shell: "Shell") -> Any:
    """The subscription as it is kept; one that the caller may not use is as unknown as none."""
    action = request.DESCRIPTOR.name.removesuffix("Request")
    async with shell.db() as db:
        found = await kept(request.organisation_id, request.subscription_id, db)
    if found is None or not allowed(request.organisation_id, action, caller):
        raise unknown(request.subscription_id)
    return found


def allowed(organisation: str, action: str, caller: Caller) -> bool:
    """Whether the caller may do this with the organisation's subscriptions.

    Raises Failure UNAVAILABLE where that is not known: what is refused for that is not unknown.
    """
    kind = "platform" if organisation == PLATFORM else "organisation"
    decision = caller.may(action, Resource(kind, organisation))
    if VIEW_STALE in decision.reasons:
        raise stale_view()
    return decision.allowed


async def owned_here(organisation: str, shell: "Shell") -> None:
    """Raise Failure where another instance owns the organisation's shard."""
    if shell.ownership.owns(organisation):
        return
    partition = partition_of(organisation, shell.settings.partitions)
    address = await shell.store.owner_address(shell.service.topic, partition)
    if not address or address == shell.address:
        raise Failure("UNAVAILABLE", f"nobody delivers for {organisation!r} now: retry")
    told = f"{organisation!r} is owned elsewhere"
    raise Failure("FAILED_PRECONDITION", told, reason=WRONG_OWNER, details={"address": address})


def here(shell: "Shell") -> Here:
    """What this process delivers."""
    if shell not in HERE:
        HERE[shell] = Here()
    return HERE[shell]
