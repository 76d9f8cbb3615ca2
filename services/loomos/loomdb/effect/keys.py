"""Makes, wraps anew and destroys keys in the keystore, each as an event ordered it.

Whatever is done twice comes to the same: a key that is dead dies again, a successor that is there
stays the successor.
"""

import asyncio
from typing import Any

from loom.decider import Command, Recorded
from loom.kit.sealing import digests_of
from loom.log.keyring import Keyring
from loom.v1 import loomdb_pb2 as pb

__all__ = ["effect"]


async def effect(record: Recorded, shell: Any) -> list[Command]:
    """Do what the event orders; the command that says so."""
    return [await asyncio.to_thread(carry_out, record, shell.sealing.keyring)]


def carry_out(record: Recorded, keyring: Keyring) -> Command:
    """The keystore's part, which waits for disks and networks."""
    match record.event:
        case pb.SubjectErased() as event:
            return Command(erased(event, record.id, keyring))
        case pb.RotationOrdered() as event:
            number = int(event.key_id.partition(".")[2])
            made = keyring.rotate(event.organisation_id, event.subject, number)
            return Command(
                pb.ReportKeysRenewedRequest(
                    organisation_id=event.organisation_id,
                    subject=event.subject,
                    key_id=made.id if made is not None else event.key_id,
                )
            )
        case pb.RewrapOrdered() as event:
            if event.renew:
                keyring.provider.renew()
            moved = keyring.rewrap()
            return Command(
                pb.ReportKeysRenewedRequest(
                    organisation_id=event.organisation_id,
                    key_id=keyring.provider.current,
                    rewrapped=moved,
                )
            )
    raise TypeError(f"{record.type} orders nothing of keys")


def erased(
    event: pb.SubjectErased, event_id: str, keyring: Keyring
) -> pb.ReportKeysDestroyedRequest:
    """End the subject's keys, and the one that digested what named no subject."""
    dead = [
        *keyring.destroy(event.organisation_id, event.subject, event_id),
        *keyring.destroy(event.organisation_id, digests_of(event.organisation_id), event_id),
    ]
    return pb.ReportKeysDestroyedRequest(
        organisation_id=event.organisation_id,
        erasure_id=event.erasure_id,
        keys=[
            pb.KeyTombstone(key_id=one.id, destroyed_at_us=one.destroyed_at_us, cause=one.cause)
            for one in dead
            if one.cause == event_id
        ],
    )
