"""A world: one log, what is on its way to it, the writers, and the callers.

Worlds are values; a step makes a new one.
"""

from typing import NamedTuple

from tests.model.log import Log, Node, Record
from tests.model.scenario import Scenario

__all__ = [
    "CLAIMING", "DONE", "LOST", "NEW", "OFF", "SERVING", "UNKNOWN", "WAITING",
    "Budget", "Client", "Pending", "Setup", "Violation", "World", "Writer", "first_world",
    "same_id",
]  # fmt: skip

OFF, CLAIMING, SERVING = range(3)
NEW, WAITING, UNKNOWN, DONE, LOST = range(5)


class Violation(Exception):
    """A promise of the log is broken."""


class Pending(NamedTuple):
    """A command that was sent and is not confirmed."""

    command: str
    records: tuple[int, ...]
    """Those that are still to be read back."""
    answer: int


class Writer(NamedTuple):
    """A claimant's memory."""

    phase: int = OFF
    read: int = 0
    """The log up to which it has read."""
    since: int = 0
    """The log at which it claimed, while it waits for its marker."""
    epoch: int = 0
    claim: int = -1
    number: int = 0
    before: int = -1
    pending: tuple[Pending, ...] = ()
    ghosts: tuple[tuple[str, int], ...] = ()
    """Answers that its state holds though no log does; only with a clause taken out."""
    missed: bool = False
    """It has passed over a valid record of its own claim; only with a clause taken out."""
    warned: bool = False
    """It has read an own record as void and serves on; only with a clause taken out."""
    used: bool = False


class Client(NamedTuple):
    """The caller of one command."""

    status: int = NEW
    writer: int = -1
    tries: int = 0
    answer: int = 0
    """The first answer it got; 0 before."""


class Budget(NamedTuple):
    """How often each fault may still happen."""

    claims: int
    doubled: int
    lost: int
    crashes: int
    forged: int
    intruded: int
    cuts: int
    altered: int
    wiped: int


class World(NamedTuple):
    """Everything at one moment."""

    log: int
    net: tuple[tuple[int, ...], ...]
    """Batches that a producer has and the log may still get, in any order."""
    writers: tuple[Writer, ...]
    clients: tuple[Client, ...]
    budget: Budget
    lease: int = 0
    """The epoch that the table of leases tells."""
    cut_off: tuple[int, ...] = ()
    """Records that the log has lost."""
    base: int = -1
    """The log at which a reader stored its base."""
    base_cut: bool = False
    """The log has lost the record before the base since."""

    def with_writer(self, index: int, writer: Writer) -> "World":
        """This world with another state of one writer."""
        writers = (*self.writers[:index], writer, *self.writers[index + 1 :])
        return self._replace(writers=writers)

    def with_client(self, index: int, client: Client) -> "World":
        """This world with another state of one caller."""
        clients = (*self.clients[:index], client, *self.clients[index + 1 :])
        return self._replace(clients=clients)

    def sent(self, *batches: tuple[int, ...]) -> "World":
        """This world with more batches on their way."""
        return self._replace(net=tuple(sorted((*self.net, *batches))))


class Setup(NamedTuple):
    """What does not change during an exploration."""

    scenario: Scenario
    without: frozenset[str]
    log: Log

    def node(self, world: World) -> Node:
        """The log of a world."""
        return self.log.nodes[world.log]

    def record(self, identity: int) -> Record:
        """A record by its number."""
        return self.log.records[identity]


def first_world(scenario: Scenario) -> World:
    """An empty log, no writer, nobody asked yet."""
    budget = Budget(
        scenario.claims, scenario.doubled, scenario.lost, scenario.crashes, scenario.forged,
        scenario.intruded, scenario.cuts, scenario.altered, scenario.wiped,
    )  # fmt: skip
    clients = tuple(Client(tries=scenario.tries) for _ in scenario.commands)
    return World(0, (), (Writer(),) * scenario.writers, clients, budget)


def same_id(one: str, other: str) -> bool:
    """Whether two commands have the same id, whatever their content."""
    return one[0] == other[0]
