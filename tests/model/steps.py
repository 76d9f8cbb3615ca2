"""All that can happen next in a world.

1. Faults are bounded by the scenario; what is no fault is fair: it happens in the end.
2. A pause is a writer that takes no step; a crash, a kill and any doubt leave the same world.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.model import protocol
from tests.model.log import CONFLICT, Node, Record
from tests.model.world import DONE, LOST, OFF, SERVING, WAITING, Setup, World, Writer, same_id

__all__ = ["Step", "steps"]


class Step(NamedTuple):
    """Something that may happen next."""

    name: str
    fair: bool
    take: Callable[[], World]


def steps(setup: Setup, world: World) -> Iterator[Step]:
    """Every step that is possible in this world."""
    for index, writer in enumerate(world.writers):
        yield from _writer_steps(setup, world, index, writer)
    for batch in dict.fromkeys(world.net):
        yield from _net_steps(setup, world, batch)
    yield from _forgeries(setup, world)
    yield from _log_faults(setup, world)
    if world.budget.wiped and world.lease:
        budget = world.budget._replace(wiped=world.budget.wiped - 1)
        yield Step("lease wiped", False, lambda: world._replace(lease=0, budget=budget))
    if setup.scenario.bases and world.base < 0:
        node = setup.node(world)
        seen = node.path if "base_boundary" in setup.without else (node.boundary,)
        for base in seen:
            if base > 0 and setup.log.nodes[base].valid:
                yield Step("base stored", False, lambda base=base: world._replace(base=base))


def _writer_steps(setup: Setup, world: World, index: int, writer: Writer) -> Iterator[Step]:
    node = setup.node(world)
    if writer.phase == OFF:
        first = writer.used or all(w.used for w in world.writers[:index])
        if world.budget.claims and first:
            yield Step(f"w{index} claims", True, lambda: protocol.claim(setup, world, index))
        return
    idle = writer.phase == SERVING and not writer.pending
    deaf = idle and "idle_reads_on" in setup.without
    if setup.log.nodes[writer.read].depth < node.depth and not deaf:
        yield Step(f"w{index} reads", True, lambda: protocol.read(setup, world, index))
    if not idle and not (writer.phase == SERVING and "deadline" in setup.without):
        yield Step(f"w{index} deadline", True, lambda: protocol.doubt(setup, world, index))
    if world.budget.crashes:
        budget = world.budget._replace(crashes=world.budget.crashes - 1)
        yield Step(
            f"w{index} crashes",
            False,
            lambda: protocol.doubt(setup, world, index)._replace(budget=budget),
        )
    if writer.phase != SERVING:
        return
    for caller, client in enumerate(world.clients):
        if client.tries and client.status != LOST:
            command = setup.scenario.commands[caller]
            yield Step(
                f"{command} asked of w{index}",
                client.status != DONE,
                lambda caller=caller: protocol.submit(setup, world, index, caller),
            )
    if "number_never_reused" in setup.without and writer.pending:
        yield Step(f"w{index} send fails", False, lambda: protocol.fail_send(setup, world, index))


def _net_steps(setup: Setup, world: World, batch: tuple[int, ...]) -> Iterator[Step]:
    left = list(world.net)
    left.remove(batch)
    gone = world._replace(net=tuple(left))
    yield Step(f"{batch} arrives", True, lambda: _arrive(setup, gone, batch))
    if world.budget.doubled:
        budget = world.budget._replace(doubled=world.budget.doubled - 1)
        again = world._replace(budget=budget)
        yield Step(f"{batch} arrives doubled", False, lambda: _arrive(setup, again, batch))
    if world.budget.lost:
        budget = world.budget._replace(lost=world.budget.lost - 1)
        yield Step(f"{batch} is lost", False, lambda: gone._replace(budget=budget))


def _arrive(setup: Setup, world: World, batch: tuple[int, ...]) -> World:
    world = world._replace(log=setup.log.append(world.log, batch))
    if "read_back" in setup.without:
        for index, writer in enumerate(world.writers):
            for pending in writer.pending:
                if pending.records == batch:
                    world = _acknowledge(setup, world, index, pending.command, pending.answer)
    return world


def _acknowledge(setup: Setup, world: World, index: int, command: str, result: int) -> World:
    for caller, client in enumerate(world.clients):
        waits = client.status == WAITING and client.writer == index
        if waits and setup.scenario.commands[caller] == command:
            world = protocol.answer(world, caller, result)
    return world


def _forgeries(setup: Setup, world: World) -> Iterator[Step]:
    node = setup.node(world)
    epoch, claim, number, digest = node.tip
    if claim < 0:
        return
    right = Record(False, epoch, claim, number + 1, 1, 1, digest, "f", node.accepted + 1)
    if world.budget.intruded:
        budget = world.budget._replace(intruded=world.budget.intruded - 1)
        yield _forgery(setup, world._replace(budget=budget), right._replace(forged="intruder"))
    if not world.budget.forged:
        return
    budget = world.budget._replace(forged=world.budget.forged - 1)
    forging = world._replace(budget=budget)
    marker = Record(True, epoch, 99, 0, 1, 1, -1, "", 0)
    for forged in (
        right._replace(epoch=epoch + 1, forged="wrong epoch"),
        right._replace(epoch=epoch - 1, forged="older epoch"),
        right._replace(claim=98, forged="wrong claim"),
        right._replace(number=number, forged="old number"),
        right._replace(number=number + 2, forged="number ahead"),
        right._replace(before=-1, forged="no digest"),
        marker._replace(forged="marker of the current epoch"),
        marker._replace(epoch=epoch + 2, forged="marker two ahead"),
    ):
        yield _forgery(setup, forging, forged)


def _forgery(setup: Setup, world: World, record: Record) -> Step:
    batch = (setup.log.intern(record),)
    return Step(f"forged: {record.forged}", False, lambda: _arrive(setup, world, batch))


def _log_faults(setup: Setup, world: World) -> Iterator[Step]:
    node = setup.node(world)
    if world.budget.cuts:
        for kept in node.path[:-1]:
            if setup.log.nodes[kept].opened:
                continue  # a broker loses whole batches
            yield Step(f"log cut to {kept}", False, lambda kept=kept: _cut(setup, world, kept))
    if world.budget.altered and world.cut_off:
        lost = setup.record(world.cut_off[0])
        if not lost.marker:
            budget = world.budget._replace(altered=world.budget.altered - 1)
            altered = setup.log.intern(lost._replace(answer=lost.answer + 1, forged="altered"))
            # files that are put back keep the broker's times
            changed = world._replace(budget=budget, base_cut=False)
            yield Step("altered", False, lambda: _arrive(setup, changed, (altered,)))


def _cut(setup: Setup, world: World, kept: int) -> World:
    """The broker loses the tail; everything is stopped and starts anew, its sends stay on the way.

    What was answered and is lost with the tail is the operator's to accept, not ours to keep.
    """
    nodes = setup.log.nodes
    path = setup.node(world).path
    removed = tuple(nodes[n].record for n in path[nodes[kept].depth + 1 :])
    if "loss_noticed" not in setup.without:
        for index in range(len(world.writers)):
            world = protocol.doubt(setup, world, index)
    clients = tuple(
        client._replace(status=LOST, writer=-1)
        if client.answer and not _stands(nodes[kept], command, client.answer)
        else client
        for command, client in zip(setup.scenario.commands, world.clients, strict=True)
    )
    budget = world.budget._replace(cuts=world.budget.cuts - 1)
    base_cut = world.base >= 0 and nodes[kept].depth < nodes[world.base].depth
    return world._replace(
        log=kept, clients=clients, budget=budget, cut_off=removed, base_cut=base_cut
    )


def _stands(node: Node, command: str, result: int) -> bool:
    """Whether the log still bears an answer out."""
    if result == CONFLICT:
        return any(same_id(known, command) for known, _ in node.answers)
    return (command, result) in node.answers
