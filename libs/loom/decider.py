"""The vocabulary of the verbs: what `decide`, `evolve`, `project` and `react` take and give.

Invariants: nothing here does I/O, reads a clock or draws a random number; ids come from the
command's id, so the same command makes the same ids on every machine and on every replay.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from google.protobuf.message import Message

__all__ = [
    "Code",
    "Command",
    "Context",
    "Position",
    "Recorded",
    "Rejected",
    "Resource",
    "Statement",
    "fold",
    "partition_shard",
    "shard_of",
    "shell_stream",
]


class Code:
    """gRPC status names a decision may refuse with (the shell maps them to gRPC and HTTP)."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"


class Rejected(Exception):
    """A command is refused: says what was wrong, with which value, and what to do."""

    def __init__(self, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class Resource(NamedTuple):
    """What a command touches, for authorisation: its owner in the tenant tree."""

    kind: str
    """`platform`, `organisation`, `project`, `user` or `node`."""
    id: str


class Statement(NamedTuple):
    """One parametrised SQL statement of a projection."""

    sql: str
    parameters: tuple[Any, ...] = ()


class Command(NamedTuple):
    """A command that a reactor or an effect wants told; its id derives from the causing event."""

    request: Message
    key: str = ""
    """Tells apart the commands that one event causes; empty for the only one."""


class Position(NamedTuple):
    """A place in the log of one partition."""

    topic: str
    partition: int
    offset: int
    incarnation: int = 0


class Context(NamedTuple):
    """What a decision may know beside its state and its command."""

    command_id: str
    at_us: int
    """The time given to this decision, microseconds since 1970; never decreases in a partition."""
    actor: str
    """Who asks, e.g. `user:usr-acme-…`, `service:scheduler`, `node:node-…`."""
    shard: str
    correlation_id: str = ""
    causation_id: str = ""

    def new_id(self, kind: str, index: int = 0) -> str:
        """The id of a stream that this command founds: `<kind>-<shard>-<20 characters>`."""
        seed = "\0".join((self.actor, self.command_id, kind, str(index))).encode()
        token = base64.b32encode(hashlib.sha256(seed).digest()[:13]).decode()[:20].lower()
        return f"{kind}-{self.shard}-{token}"


class Recorded(NamedTuple):
    """A valid event as it stands in the log."""

    event: Message
    type: str
    """`job.preempted`"""
    id: str
    """The event's own id (`ce_id`), unique in the log."""
    stream: str
    version: int
    shard: str
    position: Position
    at_us: int
    actor: str
    command_id: str
    correlation_id: str
    causation_id: str
    epoch: int = 0
    trace: str = ""
    """W3C traceparent of the command that caused it; empty when untraced."""
    command_digest: bytes = b""
    """What the command said, digested: the same id with another digest is another command."""
    deleted: bool = False
    """True where a policy deleted the content from the archive: states fold over it as before."""


def fold(evolve: Callable[[Any, Message], None], state: Any, events: Iterable[Message]) -> Any:
    """The state after these events; changes and returns the one given."""
    for event in events:
        evolve(state, event)
    return state


def shard_of(stream_id: str) -> str:
    """The shard that a stream id names, or "" when it has not the form `<kind>-<shard>-<token>`."""
    _, _, rest = stream_id.partition("-")
    shard, _, token = rest.rpartition("-")
    return shard if len(token) == 20 else ""


def partition_shard(partition: int) -> str:
    """Where the shell keeps what concerns a whole partition; no id of a tenant has a colon."""
    return f"partition:{partition}"


def shell_stream(shard: str) -> str:
    """The stream of what the shell itself writes in a shard: no founded stream has a colon."""
    return f"shard:{shard}"
