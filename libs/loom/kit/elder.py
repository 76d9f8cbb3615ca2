"""The answer to a command that is older than the index of answers, from the audit index.

1. The index of a partition remembers 30 days. An older command is looked up before it is
   decided, in a read model that has reached all that this owner read back: what it does not hold
   there was never decided.
2. While nobody can say, the outcome is unknown; such a command is never decided on a guess.
"""

from typing import TYPE_CHECKING

from loom.decider import Position
from loom.kit.answers import KEPT_US, Answer
from loom.kit.call import Call
from loom.kit.entries import Entry
from loom.log.clock import now_us
from loom.log.envelope import token_of
from loom.log.judge import Base
from loom.v1 import loomdb_pb2

if TYPE_CHECKING:
    from loom.kit.client import Client

__all__ = ["answered_long_ago", "is_elder"]

MARGIN_US = 3600 * 1_000_000
"""Clocks differ; what the index has just forgotten is looked up too."""
LOOK_UP_S = 15.0


def is_elder(call: Call) -> bool:
    """True where the index of answers may have forgotten the command."""
    return call.issued_at_us < now_us() - KEPT_US + MARGIN_US


async def answered_long_ago(
    client: "Client", topic: str, partition: int, base: Base, entry: Entry
) -> Answer | None:
    """The answer that the command got; None where it was never decided.

    `base` is how far the owner has read its partition back. Raises Failure where nobody can say.
    """
    request = loomdb_pb2.FindCommandRequest(
        organisation_id="platform",
        topic=topic,
        token=token_of(entry.caller.principal, entry.command_id),
    )
    after = (Position(topic, partition, base.offset - 1, base.incarnation),) if base.offset else ()
    found = await client.ask(request, after=after, timeout_s=LOOK_UP_S)
    assert isinstance(found, loomdb_pb2.FoundCommand)
    if not found.HasField("position"):
        return None
    place = found.position
    return Answer(
        digest=found.digest,
        at_us=found.at_us,
        id=found.stream_id,
        version=found.version,
        position=Position(place.topic, place.partition, place.offset, place.incarnation),
        correlation_id=found.correlation_id,
        code=found.code,
        message=found.message,
        field=found.field,
    )
