"""Lets keys die again that a restored backup brought back, before anything is served (ADR 0016).

1. The log says which keys are dead; the keystore says how far in the log it knows of them. A copy
   of the keystore is older in both, so what it brings back is found and destroyed.
2. A log that is another one, or went backwards, is read from its beginning.
3. It ends at the log's end as it was when it began; what comes later is the erasing effect's work.
"""

import asyncio

import structlog

from loom.kit.sealing import Sealing
from loom.log.judge import START, Base, Kind
from loom.log.keyring import Keyring
from loom.log.keystore import make_folder, write
from loom.log.reader import LogAway, LogDiverged, Reader
from loom.v1 import loomdb_pb2

__all__ = ["replay"]

TOPIC = "loomos.loomdb"
RETRY_S = 1.0


async def replay(sealing: Sealing) -> int:
    """Destroy again what the log says is dead, in every partition; gives how many keys lived."""
    log = structlog.get_logger()
    died = 0
    for partition in range(sealing.settings.partitions):
        while True:
            try:
                died += await replay_one(sealing, partition)
                break
            except LogAway as error:
                log.warning("erasures wait for the log", reason=str(error))
                await asyncio.sleep(RETRY_S)
    if died:
        log.warning("keys that had been destroyed were back and died again", keys=died)
    return died


async def replay_one(sealing: Sealing, partition: int) -> int:
    """The same for one partition."""
    folder = sealing.folder / "replayed"
    make_folder(folder)
    path = folder / f"{TOPIC}-{partition}"
    try:
        known = Base.parse(path.read_text()) if path.exists() else START
    except ValueError:
        known = START
    try:
        died, base = await read(sealing, partition, known)
    except LogDiverged as error:
        structlog.get_logger().warning("erasures are read from the beginning", reason=str(error))
        died, base = await read(sealing, partition, START)
    if base != known:
        await asyncio.to_thread(write, path, base.text().encode())
    return died


async def read(sealing: Sealing, partition: int, start: Base) -> tuple[int, Base]:
    """Destroy what a range of the log says is dead; how many keys lived, and where it ends."""
    reader = Reader(sealing.settings, TOPIC, partition, start)
    died = 0
    try:
        end = await reader.start()
        while reader.next_offset < end:
            for record in await reader.batch(wait_ms=500):
                if record.verdict.kind == Kind.EVENT:
                    recorded = reader.recorded(record)
                    died += await asyncio.to_thread(
                        bury, sealing.keyring, recorded.event, recorded.id, recorded.at_us
                    )
        return died, reader.base
    finally:
        await reader.stop()


def bury(keyring: Keyring, event: object, event_id: str, at_us: int) -> int:
    """Destroy what one event says is dead; how many keys lived."""
    match event:
        case loomdb_pb2.SubjectErased():
            ids = list(event.key_ids)
        case loomdb_pb2.KeyDestroyed():
            ids = [key.key_id for key in event.keys]
        case _:
            return 0
    return sum(keyring.destroy_again(key_id, event_id, at_us) for key_id in ids)
