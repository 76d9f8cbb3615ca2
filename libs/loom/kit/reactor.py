"""Closes the loop: what an event asks of others becomes commands, of the world effects.

1. A command's id derives from the event that caused it, so an event seen twice asks once.
2. `react` sees the state as it was at the event: the reactor folds a view of its own.
3. The position moves only over what was answered; a refusal is an answer (it stands in the
   other's log), an unknown outcome is asked again with the same id, and its stream waits for it.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import structlog
from google.protobuf.message import Message

from loom.decider import Command, Recorded
from loom.kit import snapshot
from loom.kit.contract import Service
from loom.kit.errors import Failure
from loom.kit.folder import Folder
from loom.kit.lanes import Lanes, Work
from loom.log.judge import START, Base, Kind
from loom.log.reader import IDLE_MS, LogAway, Reader
from loom.log.topics import Bus
from loom.store import Store

__all__ = ["Reactor", "derived_id"]

NAME = "reactor"
RETRY_S_MAX = 5.0
MOVE_PAUSE_S = 0.2
"""Between two moves of the position: what is done twice after a restart is asked once."""
RETRIED = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "INTERNAL")
Tell = Callable[[Message, str, Recorded], Awaitable[Any]]


def derived_id(cause_id: str, at_us: int, reactor: str, key: str) -> str:
    """The id of a command that an event causes: sorted by the cause's time, the same each time."""
    mark = hashlib.sha256(f"{cause_id}\0{reactor}\0{key}".encode()).hexdigest()
    return f"{at_us:015x}-{mark[:32]}"


class Reactor:
    """One service's reactions to one partition of its topic."""

    def __init__(
        self, service: Service, store: Store, bus: Bus, partition: int, tell: Tell, shell: Any
    ) -> None:
        self._service = service
        self._store = store
        self._bus = bus
        self._partition = partition
        self._tell = tell
        self._shell = shell
        self._log = structlog.get_logger().bind(reactor=service.name, partition=partition)

    async def run(self) -> None:
        """React for ever; ends by raising Fenced, LogDiverged or Undecodable."""
        while True:
            try:
                await self._follow()
            except (psycopg.OperationalError, LogAway) as error:
                self._log.warning("store away, trying again", reason=str(error).strip())
                await asyncio.sleep(1)

    async def _follow(self) -> None:
        topic = self._service.topic
        stored, epoch = await self._store.claim_position(NAME, topic, self._partition, START.text())
        done = Base.parse(stored)
        known = await snapshot.load(self._service, self._store, self._partition)
        if known is not None and known.base.offset > done.offset:
            # It is ahead of what was reacted to: the view at those events is not in it.
            known = None
        folder = snapshot.unfold(self._service, self._bus, self._partition, known)
        reader = Reader(self._bus, topic, self._partition, START if known is None else known.base)
        lanes = Lanes(self._react)
        await reader.start()
        loops = [
            asyncio.create_task(self._read(reader, folder, lanes, done.offset)),
            asyncio.create_task(self._move(lanes, done, epoch)),
        ]
        try:
            ended, _ = await asyncio.wait(
                (*loops, lanes.broken), return_when=asyncio.FIRST_COMPLETED
            )
            for loop in ended:
                loop.result()
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await lanes.close()
            await folder.stop()
            await reader.stop()

    async def _read(self, reader: Reader, folder: Folder, lanes: Lanes, done: int) -> None:
        """Fold for ever, and hand on what is at or behind the offset `done`."""
        while True:
            for record in await reader.batch(IDLE_MS):
                await lanes.room()
                if record.verdict.kind == Kind.EVENT:
                    recorded = reader.recorded(record)
                    heard = await folder.fold(recorded)
                    if record.offset >= done:
                        for cause, shards in (*heard, (recorded, [recorded.shard])):
                            for shard in shards:
                                commands = self._reactions(cause, folder, shard)
                                if commands or self._service.effect is not None:
                                    lanes.add(Work(cause, commands))
                if record.verdict.closes:
                    lanes.passed(record.base)

    async def _move(self, lanes: Lanes, done: Base, epoch: int) -> None:
        """Let the stored position follow what was done, for ever."""
        while True:
            await lanes.changed.wait()
            lanes.changed.clear()
            reached = lanes.done_to()
            if reached.offset <= done.offset:
                continue
            async with self._store.connection() as connection:
                step = (done.text(), reached.text())
                await Store.move_position(
                    connection, NAME, self._service.topic, self._partition, step, epoch
                )
            done = reached
            await asyncio.sleep(MOVE_PAUSE_S)

    def _reactions(self, cause: Recorded, folder: Folder, shard: str) -> list[Command]:
        """What the shard's view at this event asks for; its records' own name keeps ids apart."""
        state = folder.states.get(shard)
        if self._service.react is None or state is None:
            return []
        found = self._service.react(cause, state)
        return [
            command._replace(key=f"{shard}\0{command.key or index}")
            for index, command in enumerate(found)
        ]

    async def _react(self, work: Work) -> None:
        """All that one event asks for, in order."""
        for command in work.commands:
            await self._ask(work.cause, command)
        if self._service.effect is not None:
            await self._effect(work.cause)

    async def _effect(self, cause: Recorded) -> None:
        assert self._service.effect is not None
        wait_s = 0.2
        while True:
            try:
                commands = await self._service.effect(cause, self._shell)
                break
            except (Failure, OSError, TimeoutError) as error:
                self._log.warning("effect failed, trying again", cause=cause.id, reason=str(error))
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_S_MAX)
        for index, command in enumerate(commands):
            await self._ask(cause, command._replace(key=f"effect\0{command.key or index}"))

    async def _ask(self, cause: Recorded, command: Command) -> None:
        command_id = derived_id(cause.id, cause.at_us, self._service.name, command.key)
        wait_s = 0.05
        while True:
            try:
                await self._tell(command.request, command_id, cause)
                return
            except Failure as failure:
                if failure.code not in RETRIED:
                    # A derived id that was used with other content was decided already.
                    self._log.info(
                        "command refused",
                        cause=cause.id,
                        command=command.request.DESCRIPTOR.name,
                        code=failure.code,
                        reason=failure.message,
                    )
                    return
                self._log.warning("command unanswered, asking again", reason=failure.message)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_S_MAX)
