"""What every command was answered: part of the folded state, so that the same command id gets the
same answer across restarts and fail-overs, refusals included.

1. Ids are per principal; the same id with other content is refused and never enters the index.
2. Answers are kept for 30 days of the log's own time.
"""

from collections import deque
from dataclasses import dataclass

from loom.decider import Position, Recorded
from loom.v1 import common_pb2

__all__ = ["Answer", "Answers"]

KEPT_US = 30 * 24 * 3600 * 1_000_000


@dataclass(slots=True)
class Answer:
    """The outcome of one command: a receipt, or a refusal where `code` is set."""

    digest: bytes
    at_us: int
    id: str = ""
    version: int = 0
    position: Position | None = None
    correlation_id: str = ""
    code: str = ""
    message: str = ""
    field: str = ""

    def receipt(self, command_id: str) -> common_pb2.Receipt:
        """What the caller of an accepted command gets."""
        assert self.position is not None
        place = common_pb2.Position(
            topic=self.position.topic,
            partition=self.position.partition,
            offset=self.position.offset,
            incarnation=self.position.incarnation,
        )
        return common_pb2.Receipt(
            id=self.id,
            version=self.version,
            positions=[place],
            command_id=command_id,
            correlation_id=self.correlation_id,
        )


class Answers:
    """Answers by command token, forgotten in the order of their times."""

    def __init__(self) -> None:
        self._by_token: dict[str, Answer] = {}
        self._ages: deque[tuple[int, str]] = deque()

    def __len__(self) -> int:
        return len(self._by_token)

    def get(self, token: str) -> Answer | None:
        """The answer that this command got, if it is remembered."""
        return self._by_token.get(token)

    def put(self, token: str, answer: Answer) -> None:
        """Remember, and forget what is too old."""
        if token not in self._by_token:
            self._ages.append((answer.at_us, token))
        self._by_token[token] = answer
        while self._ages and self._ages[0][0] < answer.at_us - KEPT_US:
            self._by_token.pop(self._ages.popleft()[1], None)

    def fold(self, token: str, recorded: Recorded) -> None:
        """Learn an answer from a record of the log; a command's later records complete it."""
        answer = self._by_token.get(token)
        if answer is None or answer.at_us != recorded.at_us:
            answer = Answer(recorded.command_digest, recorded.at_us)
            self.put(token, answer)
        complete(answer, recorded)


def complete(answer: Answer, recorded: Recorded) -> None:
    """Take from one record of the command what its answer says."""
    event = recorded.event
    answer.position = recorded.position
    answer.correlation_id = recorded.correlation_id
    if isinstance(event, common_pb2.CommandRefused):
        answer.code, answer.message, answer.field = event.code, event.message, event.field
    elif isinstance(event, common_pb2.CommandAcknowledged):
        answer.id = event.subject or recorded.stream
        answer.version = recorded.version
    elif not answer.id or answer.id == recorded.stream:
        answer.id, answer.version = recorded.stream, recorded.version
