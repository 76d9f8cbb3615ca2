"""What must hold in every world, and in every world at rest (no fair step is left).

1. Who was answered finds the log saying the same, exactly once, for ever.
2. An owner's state is the fold of its log; what it shows is confirmed.
3. Who starts at a stored base stops loudly or sees what the log holds; all readers agree.
4. At rest nobody waits, and no deposed owner believes that it serves.
"""

from tests.model.log import CONFLICT, FAILED, REFUSED, Node
from tests.model.world import (
    CLAIMING,
    LOST,
    SERVING,
    UNKNOWN,
    WAITING,
    Setup,
    Violation,
    World,
    Writer,
    same_id,
)

__all__ = ["at_rest", "check"]


def check(setup: Setup, world: World) -> None:
    """Raise Violation unless every promise holds in this world."""
    node = setup.node(world)
    if node.problem:
        raise Violation(node.problem)
    if node.opened and setup.log.strict:
        raise Violation("half a command")
    for command, client in zip(setup.scenario.commands, world.clients, strict=True):
        if client.answer and client.status != LOST:
            _check_answer(setup, node, command, client.answer)
    for index, writer in enumerate(world.writers):
        if writer.phase == SERVING:
            _check_writer(setup, node, index, writer)
    if world.base >= 0:
        _check_base(setup, world, node)
    if setup.scenario.undecodable:
        _check_old_reader(setup, node)


def _check_answer(setup: Setup, node: Node, command: str, result: int) -> None:
    found = [told for known, told in node.answers if known == command]
    if result == CONFLICT:
        twins = [known for known, _ in node.answers if same_id(known, command)]
        if not twins or found:
            raise Violation(f"{command} was refused for a twin that the log does not have")
    elif result == FAILED:
        if found:
            raise Violation(f"{command} was answered as failed and is in the log")
    elif result == REFUSED and "refusal_recorded" in setup.without:
        if found not in ([], [REFUSED]):
            raise Violation(f"{command} was refused and is accepted in the log")
    elif found != [result]:
        raise Violation(f"{command} was answered {result}, the log says {found}")


def _check_writer(setup: Setup, node: Node, index: int, writer: Writer) -> None:
    if writer.missed:
        raise Violation(f"w{index} serves a state that is not the fold of its log")
    if setup.scenario.queries and "query_confirmed" in setup.without:
        for pending in writer.pending:
            if (pending.command, pending.answer) not in node.answers:
                raise Violation(f"a query of w{index} shows what the log does not have")


def _check_base(setup: Setup, world: World, node: Node) -> None:
    """Who starts at the stored base now either stops loudly or sees what the log holds."""
    base = setup.log.nodes[world.base]
    if base.opened:
        raise Violation("a base holds half a command")
    if node.depth < base.depth:
        return
    found = setup.log.nodes[node.path[base.depth]]
    if found.id == base.id:
        return
    before, claimed = setup.record(found.record), base.tip
    same = (
        (before.epoch, before.claim, before.number) == claimed[:3],
        found.record == base.record or "base_digest" in setup.without,
        not world.base_cut or "base_time" in setup.without,
    )
    if (all(same) or "base_checked" in setup.without) and (
        found.tip != base.tip or found.answers != base.answers
    ):
        raise Violation("a reader goes on in silence on another log than it has read")


def _check_old_reader(setup: Setup, node: Node) -> None:
    """A reader that cannot decode one command's events agrees with all others, or has stopped."""
    tip = setup.log.nodes[0].tip
    for identity in node.path[1:]:
        seen = setup.log.nodes[identity]
        record = setup.record(seen.record)
        valid, after = setup.log.verdicts.admit(tip, record, seen.record)
        if valid and record.command == setup.scenario.undecodable:
            if "undecodable_stops" not in setup.without:
                return
            valid, after = False, tip
        if valid != seen.valid and record.command != setup.scenario.undecodable:
            raise Violation("two readers disagree about a record")
        tip = after


def at_rest(setup: Setup, world: World) -> None:
    """Raise Violation if a caller or a deposed owner would wait for ever."""
    tip = setup.node(world).tip
    for command, client in zip(setup.scenario.commands, world.clients, strict=True):
        if client.status == WAITING:
            raise Violation(f"the caller of {command} waits for ever")
        stuck = client.status == UNKNOWN and client.tries and world.budget.claims
        if stuck and all(writer.phase != CLAIMING for writer in world.writers):
            raise Violation(f"the caller of {command} finds no owner")
    for index, writer in enumerate(world.writers):
        if writer.phase == SERVING and writer.claim != tip.claim:
            raise Violation(f"w{index} is deposed and never learns it")
