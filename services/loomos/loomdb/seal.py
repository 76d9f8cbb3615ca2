"""The notaries of all judged topics, one task for each partition.

1. One process signs at a time: a lock on the trees' folder keeps a second one waiting.
2. A log that contradicts what was signed stops its notary, loudly; the others go on.
"""

import asyncio
import fcntl
from pathlib import Path
from typing import Any

from loom.log.notary import Contradiction, Notary, newest_incarnation
from loom.log.note import InvalidNote, Signer, load_signer
from loom.log.reader import LogAway, LogDiverged
from loom.log.seals import Seals, follow
from loom.log.tiles import DamagedTree
from loom.log.topics import TOPICS
from loom.log.witnesses import Policy, Witnesses, load_policy
from loomos.loomdb.proof import Trees

__all__ = ["NAME", "notarise", "trees_of"]

NAME = "loomos"
"""The name under which the notary signs."""
EVERY_S = 1.0
RETRY_S = 2.0


def trees_of(shell: Any) -> Trees:
    """Where this installation keeps its trees, the key that signs them, and who witnesses them."""
    settings = shell.settings
    return Trees(settings.home / "trees", settings.credentials / "notary.pub", asked(shell))


async def notarise(shell: Any) -> None:
    """Seal every partition for as long as the process lives."""
    folder = trees_of(shell).folder
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        while not locked(lock.fileno()):  # noqa: ASYNC110 - another process holds it
            await asyncio.sleep(RETRY_S)
        signer = load_signer(shell.settings.credentials, NAME)
        seals = await connected(shell)
        witnesses = Witnesses(asked(shell))
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(witnesses.run())
                for topic in TOPICS:
                    for partition in range(shell.settings.partitions) if topic.judged else ():
                        tree = one(shell, folder, topic.name, partition, signer, seals, witnesses)
                        tasks.create_task(tree)
        finally:
            await seals.stop()


async def connected(shell: Any) -> Seals:
    """The way to `loomos.seals`, as soon as a broker answers."""
    while True:
        seals = Seals(shell.settings)
        try:
            await seals.start()
        except LogAway as error:
            shell.log.warning("notary waits", reason=str(error))
            await seals.stop()
            await asyncio.sleep(RETRY_S)
        else:
            return seals


def asked(shell: Any) -> Policy:
    """The witnesses to ask; none, with a word to the operator, where their file cannot be used."""
    try:
        return load_policy(shell.settings.environ, shell.settings.credentials)
    except InvalidNote as error:
        shell.log.error("no witness is asked", reason=str(error))
        return Policy()


async def one(
    shell: Any,
    folder: Path,
    topic: str,
    partition: int,
    signer: Signer,
    seals: Seals,
    witnesses: Witnesses,
) -> None:
    """The notary of one partition: starts over when Kafka was away, ends on contradiction."""
    while True:
        try:
            incarnation = newest_incarnation(folder, topic, partition)
            notary = Notary(folder, topic, partition, signer, incarnation)
            await follow(shell.settings, notary, seals, EVERY_S, witnesses)
        except (Contradiction, LogDiverged, DamagedTree) as error:
            shell.log.critical("notary stopped", tree=f"{topic}-{partition}", reason=str(error))
            return
        except OSError as error:
            shell.log.warning("notary waits", tree=f"{topic}-{partition}", reason=repr(error))
            await asyncio.sleep(RETRY_S)


def locked(handle: int) -> bool:
    """Whether the lock could be taken; it falls with the process."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
