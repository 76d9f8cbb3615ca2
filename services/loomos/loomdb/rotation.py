"""Orders a successor for every key that is older than its life, one event for each.

The command's id derives from the key's: several instances, or one that starts often, order once.
"""

import asyncio
from typing import Any

from loom.kit.errors import Failure
from loom.log.clock import now_us
from loom.log.keyring import LIFE_US, Keyring
from loom.log.keystore import Unusable, Wrapped
from loom.v1 import loomdb_pb2 as pb

__all__ = ["old_keys", "rotate_old"]

EVERY_S = 3600.0
RETRY_S = 30.0


async def rotate_old(shell: Any) -> None:
    """Look for old keys now and then, for as long as the process lives."""
    await shell.ownership.serving()
    while True:
        try:
            for key in await asyncio.to_thread(old_keys, shell.sealing.keyring, now_us()):
                await order(key, shell)
            pause_s = EVERY_S
        except (Failure, Unusable) as error:
            shell.log.warning("keys are not rotated", reason=str(error))
            pause_s = RETRY_S
        await asyncio.sleep(pause_s)


async def order(key: Wrapped, shell: Any) -> None:
    """Have one key's successor ordered."""
    command = pb.RotateKeyRequest(
        organisation_id=key.organisation, subject=key.subject, reason="older than its life"
    )
    await shell.tell(command, key="rotate", causation_id=key.id)


def old_keys(keyring: Keyring, at_us: int) -> list[Wrapped]:
    """The newest key of each subject whose newest is too old."""
    newest = {(key.organisation, key.subject): key for key in keyring.store.living()}
    return [key for key in newest.values() if key.created_at_us < at_us - LIFE_US]
