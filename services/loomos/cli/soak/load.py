"""Seeded callers of a service: each command has an id, and its answer is written down.

1. What a caller is not told stays `unknown`; some of it is asked again under the same id.
2. Which commands come is the seed's choice alone; when they come is the machine's.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from google.protobuf.message import Message

from loom.kit.errors import Failure
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as pb

__all__ = ["ACKNOWLEDGED", "REFUSED", "UNKNOWN", "Load", "Outcome", "Registrations", "Script"]

ACKNOWLEDGED, REFUSED, UNKNOWN = "acknowledged", "refused", "unknown"
UNTOLD = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "INTERNAL")
"""Codes after which the log may or may not have the command."""
XID_FATAL = 79
PAUSE_S = 0.02
TOKEN = "abcdefghijklmnopqrstuvwxyz234567"  # noqa: S105 - the letters that ids are made of
Tell = Callable[[Message, str], Awaitable[common_pb2.Receipt]]


class Outcome(NamedTuple):
    """What a caller knows of one command."""

    kind: str
    receipt: common_pb2.Receipt | None = None
    code: str = ""


class Script(Protocol):
    """What callers say next, and what they do with an answer."""

    def request(self, chance: random.Random, command_id: str) -> Message:
        """The next command."""
        ...

    def heard(self, request: Message, receipt: common_pb2.Receipt) -> None:
        """A command was acknowledged."""
        ...


class Registrations:
    """Nodes that register, register again, report health; now and then one that is unknown."""

    def __init__(self) -> None:
        self.nodes: list[str] = []
        """Nodes whose registration was acknowledged."""

    def heard(self, request: Message, receipt: common_pb2.Receipt) -> None:
        """Remember who is there."""
        if isinstance(request, pb.RegisterNodeRequest):
            self.nodes.append(request.node_id)

    def request(self, chance: random.Random, command_id: str) -> Message:
        """The next command."""
        kind = chance.random()
        node = chance.choice(self.nodes) if self.nodes else ""
        if not node or kind < 0.4:
            return registration("node-local-" + "".join(chance.choices(TOKEN, k=20)), command_id)
        if kind < 0.85:
            return registration(node, command_id)
        if kind < 0.99:
            gpus = [
                pb.GpuHealth(gpu_uuid=f"GPU-{node[-20:]}-{index}", xids=[XID_FATAL])
                for index in (0, 1)
            ]
            return pb.ReportNodeHealthRequest(node_id=node, gpus=gpus)
        return pb.ReportNodeLostRequest(node_id="node-local-" + "a" * 20)


@dataclass
class Load:
    """Callers that go on until they are told to stop, and what they were answered."""

    tell: Tell
    seed: int
    script: Script = field(default_factory=Registrations)
    callers: int = 8
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    requests: dict[str, Message] = field(default_factory=dict)
    stopping: bool = False
    answered: int = 0
    """How many commands were acknowledged or refused."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Call until `stopping` is set."""
        await asyncio.gather(*(self._caller(number) for number in range(self.callers)))

    async def settle(self, seconds: float = 60.0) -> None:
        """Ask again for half of what is unknown, until it is known."""
        chance = random.Random(self.seed)  # noqa: S311 - to be repeated, not to be secret
        unknown = sorted(one for one, known in self.outcomes.items() if known.kind == UNKNOWN)
        async with asyncio.timeout(seconds):
            for command_id in unknown:
                if chance.random() < 0.5:
                    while self.outcomes[command_id].kind == UNKNOWN:
                        await self._ask(command_id)

    async def go_on(self, count: int, seconds: float = 60.0) -> None:
        """Return when that many more commands were answered."""
        goal = self.answered + count
        async with asyncio.timeout(seconds):
            while self.answered < goal:
                self._news.clear()
                await self._news.wait()

    async def _caller(self, number: int) -> None:
        chance = random.Random(f"{self.seed} {number}")  # noqa: S311 - as above
        count = 0
        while not self.stopping:
            count += 1
            command_id = f"soak-{self.seed:x}-{number}-{count}"
            self.requests[command_id] = self.script.request(chance, command_id)
            await self._ask(command_id)
            await asyncio.sleep(PAUSE_S * chance.random())

    async def _ask(self, command_id: str) -> None:
        request = self.requests[command_id]
        try:
            receipt = await self.tell(request, command_id)
        except Failure as failure:
            if failure.code in UNTOLD:
                self.outcomes[command_id] = Outcome(UNKNOWN, code=failure.code)
                return
            self.outcomes[command_id] = Outcome(REFUSED, code=failure.code)
        else:
            self.outcomes[command_id] = Outcome(ACKNOWLEDGED, receipt)
            self.script.heard(request, receipt)
        self.answered += 1
        self._news.set()


def registration(node_id: str, hostname: str) -> pb.RegisterNodeRequest:
    """A node with two GPUs; another hostname makes it another fact."""
    token = node_id[-20:]
    return pb.RegisterNodeRequest(
        node_id=node_id,
        hostname=hostname,
        capacity=common_pb2.Resources(cpu_milli=8000, memory_bytes=2**34, gpu_milli=2000),
        gpus=[
            pb.Gpu(uuid=f"GPU-{token}-{index}", index=index, model="A100", memory_bytes=2**34)
            for index in (0, 1)
        ],
    )
