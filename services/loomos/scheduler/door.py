"""What the scheduler's door does beside deciding: fills in the cluster where none is named, and
reads the answer to a dry run from the event that decided it.
"""

import asyncio
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from loom.kit.authorize import Caller
from loom.kit.errors import Failure
from loom.v1 import common_pb2
from loom.v1 import scheduler_pb2 as pb

if TYPE_CHECKING:
    from loom.kit.service import Shell

__all__ = ["answer", "prepare"]

LOOK_SECONDS = 0.02
PROJECTED_LOOKS = 250


async def prepare(command: Message, caller: Caller, shell: "Shell") -> Message:
    """A job for no cluster in particular is for this one."""
    if isinstance(command, pb.SubmitJobRequest | pb.DryRunJobRequest) and not command.cluster_id:
        command.cluster_id = shell.settings.cluster
    return command


async def answer(
    command: Message, receipt: common_pb2.Receipt, caller: Caller, shell: "Shell"
) -> Message:
    """The dry run that the receipt proves."""
    for _ in range(PROJECTED_LOOKS):
        async with shell.db() as db:
            cursor = await db.execute(
                "SELECT answer FROM dry_runs WHERE dry_run_id = %s", (receipt.id,)
            )
            row = await cursor.fetchone()
        if row is not None:
            return pb.DryRun.FromString(row["answer"])
        await asyncio.sleep(LOOK_SECONDS)
    raise Failure("UNAVAILABLE", f"dry run {receipt.id} is not projected yet: retry")
