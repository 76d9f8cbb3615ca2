"""The log of the model: abstract records, judged by the production judge, folded as they come.

1. A log is a node of a trie, so each prefix is judged and folded once, whatever led to it.
2. A record's digest is its number in the table of records: equal bytes, equal digest.
3. What is wrong with a log by itself (see `Node.problem`) is found when the node is made.
"""

from typing import NamedTuple

from tests.model.judging import START, Tip, Verdicts

__all__ = ["CONFLICT", "FAILED", "REFUSED", "Log", "Node", "Record", "decide", "parts_of"]

REFUSED = -1
CONFLICT = -2
FAILED = -3


class Record(NamedTuple):
    """What the model keeps of a record: the headers that the judge reads, and what was decided."""

    marker: bool
    epoch: int
    claim: int
    number: int
    part: int
    parts: int
    before: int
    """Digest of the claim's record before; of the marker for the first."""
    command: str
    answer: int
    forged: str = ""


class Node(NamedTuple):
    """A log: all that follows from its records, and its newest record's verdict."""

    id: int
    path: tuple[int, ...]
    """The nodes of all prefixes, from the empty log to this one."""
    record: int
    valid: bool
    tip: Tip
    valid_ids: frozenset[int]
    answers: tuple[tuple[str, int], ...]
    """Answered commands in the order of the log."""
    accepted: int
    opened: tuple[str, int] | None
    """The command whose last part is still missing, and the last part seen."""
    problem: str
    boundary: int
    """The newest prefix at which a base may stand: after a valid record that ends a command."""

    @property
    def depth(self) -> int:
        """Number of records; the next record's offset."""
        return len(self.path) - 1


def decide(command: str, accepted: int) -> int:
    """The answer: `r` wants to be the first, `x` is too large, the others take the next version."""
    if command == "x" or (command == "r" and accepted):
        return REFUSED
    return accepted + 1


def parts_of(command: str, answer: int) -> int:
    """How many records a command leaves: `a` leaves two when it is accepted."""
    return 2 if command == "a" and answer > 0 else 1


class Log:
    """The trie of all logs met so far, under one set of rules."""

    def __init__(self, verdicts: Verdicts, *, strict: bool = True) -> None:
        """`strict=False` leaves out what an intruder with every right can always break."""
        self.verdicts = verdicts
        self.strict = strict
        self.records: list[Record] = []
        self.ids: dict[Record, int] = {}
        self.nodes = [Node(0, (0,), -1, False, START, frozenset(), (), 0, None, "", 0)]
        self.children: dict[tuple[int, int], int] = {}

    def intern(self, record: Record) -> int:
        """The number of a record, which is its digest too."""
        known = self.ids.get(record)
        if known is None:
            known = self.ids[record] = len(self.records)
            self.records.append(record)
            self.verdicts.learn(record)
        return known

    def append(self, node: int, records: tuple[int, ...]) -> int:
        """The log after these records."""
        for record in records:
            child = self.children.get((node, record))
            if child is None:
                child = len(self.nodes)
                self.nodes.append(self._extend(self.nodes[node], record, child))
                self.children[node, record] = child
            node = child
        return node

    def _extend(self, node: Node, identity: int, child: int) -> Node:
        record = self.records[identity]
        valid, tip = self.verdicts.admit(node.tip, record, identity)
        path = (*node.path, child)
        if not valid:
            return node._replace(id=child, path=path, record=identity, valid=False)
        grown = node._replace(
            id=child,
            path=path,
            record=identity,
            valid=True,
            tip=tip,
            valid_ids=node.valid_ids | {identity},
            problem=node.problem or self._problem(node, record),
        )
        if record.marker:
            return grown._replace(opened=None, boundary=child)
        if record.part < record.parts:
            return grown._replace(opened=(record.command, record.part))
        return grown._replace(
            opened=None,
            boundary=child,
            answers=(*node.answers, (record.command, record.answer)),
            accepted=node.accepted + (record.answer > 0),
        )

    def _problem(self, node: Node, record: Record) -> str:
        """What a valid record breaks of the log's own promises; empty when nothing."""
        if not self.strict:
            return ""
        if record.forged:
            return f"a forged record is valid: {record.forged}"
        if record.marker:
            return "half a command" if node.opened else ""
        if (record.epoch, record.claim) != (node.tip.epoch, node.tip.claim):
            return "a valid record of another claim"
        if record.number != node.tip.number + 1:
            return "a gap in a claim's numbers"
        expected = (record.command, record.part - 1) if record.part > 1 else None
        if node.opened != expected:
            return "half a command"
        if any(command == record.command for command, _ in node.answers):
            return f"command {record.command} is executed twice"
        if record.part == 1 and record.answer != decide(record.command, node.accepted):
            return f"command {record.command} was decided on a state that the log never had"
        return ""
