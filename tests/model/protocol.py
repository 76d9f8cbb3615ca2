"""The writer's rules (3, 5, 6, 7), step by step, each clause removable by its name.

What production does in `loom.log.writer` and `loom.kit.commander` is stated here without I/O.
"""

from tests.model.log import CONFLICT, FAILED, REFUSED, Node, Record, decide, parts_of
from tests.model.world import (
    CLAIMING,
    DONE,
    SERVING,
    UNKNOWN,
    WAITING,
    Pending,
    Setup,
    Violation,
    World,
    Writer,
    same_id,
)

__all__ = ["answer", "claim", "doubt", "fail_send", "read", "submit"]


def claim(setup: Setup, world: World, index: int) -> World:
    """Read to the end, send a marker of the next epoch with a fresh claim."""
    old = world.writers[index]
    end = setup.node(world)
    epoch = 1 + (end.tip.epoch if "epoch_from_log" not in setup.without else world.lease)
    made = setup.scenario.claims - world.budget.claims
    claimed = made if "fresh_claim" not in setup.without else index
    marker = setup.log.intern(Record(True, epoch, claimed, 0, 1, 1, -1, "", 0))
    phase = CLAIMING if "read_to_marker" not in setup.without else SERVING
    since = end.id if phase == CLAIMING else 0
    writer = Writer(phase, end.id, since, epoch, claimed, 0, marker, ghosts=old.ghosts, used=True)
    budget = world.budget._replace(claims=world.budget.claims - 1)
    return world.with_writer(index, writer)._replace(budget=budget).sent((marker,))


def submit(setup: Setup, world: World, index: int, caller: int) -> World:
    """A caller's command reaches a serving writer: an old answer, its twin's, or a decision."""
    writer = world.writers[index]
    command = setup.scenario.commands[caller]
    client = world.clients[caller]
    waiting = client._replace(status=WAITING, writer=index, tries=client.tries - 1)
    world = world.with_client(caller, waiting)
    confirmed = setup.log.nodes[writer.read]
    for known, result in (*confirmed.answers, *writer.ghosts):
        if same_id(known, command):
            return answer(world, caller, result if known == command else CONFLICT)
    for twin in writer.pending:
        if same_id(twin.command, command):
            return _join(setup, world, caller, command, twin)
    return _decide(setup, world, index, caller, command, confirmed)


def read(setup: Setup, world: World, index: int) -> World:
    """The writer reads the next record of the log."""
    writer = world.writers[index]
    depth = setup.log.nodes[writer.read].depth
    stored = setup.log.nodes[setup.node(world).path[depth + 1]].record
    node = setup.log.nodes[setup.log.append(writer.read, (stored,))]
    world = world.with_writer(index, writer._replace(read=node.id))
    record = setup.record(node.record)
    if writer.phase == CLAIMING:
        return _read_claiming(setup, world, index, node, record)
    if node.valid:
        return _read_valid(setup, world, index, node, record)
    return _read_void(setup, world, index, node, record)


def doubt(setup: Setup, world: World, index: int) -> World:
    """Drop everything; the callers hear `outcome unknown`."""
    writer = world.writers[index]
    ghosts = ()
    if "refold" in setup.without:
        kept = tuple((pending.command, pending.answer) for pending in writer.pending)
        ghosts = writer.ghosts + kept
    clients = tuple(
        client._replace(status=UNKNOWN, writer=-1)
        if client.status == WAITING and client.writer == index
        else client
        for client in world.clients
    )
    return world.with_writer(index, Writer(ghosts=ghosts, used=True))._replace(clients=clients)


def fail_send(setup: Setup, world: World, index: int) -> World:
    """Without `number_never_reused`: believe the producer's error, take the numbers back."""
    writer = world.writers[index]
    dropped = writer.pending[-1]
    first = setup.record(dropped.records[0])
    rolled = writer._replace(
        pending=writer.pending[:-1], number=first.number - 1, before=first.before
    )
    world = world.with_writer(index, rolled)
    for caller, client in enumerate(world.clients):
        if client.status == WAITING and client.writer == index:
            command = setup.scenario.commands[caller]
            if command == dropped.command:
                world = answer(world, caller, FAILED)
    return world


def answer(world: World, caller: int, result: int) -> World:
    """A caller gets its answer: the same one each time."""
    client = world.clients[caller]
    if client.answer not in (0, result):
        raise Violation(f"one command, two answers: {client.answer} and {result}")
    return world.with_client(caller, client._replace(status=DONE, writer=-1, answer=result))


def _join(setup: Setup, world: World, caller: int, command: str, twin: Pending) -> World:
    if command == twin.command and "index_confirmed" in setup.without:
        return answer(world, caller, twin.answer)
    if command != twin.command and "conflict_confirmed" in setup.without:
        return answer(world, caller, CONFLICT)
    return world


def _decide(
    setup: Setup, world: World, index: int, caller: int, command: str, confirmed: Node
) -> World:
    writer = world.writers[index]
    speculative = sum(1 for pending in writer.pending if pending.answer > 0)
    accepted = confirmed.accepted + speculative + len(writer.ghosts)
    result = decide(command, accepted)
    if command == "x" and "size_before_evolve" in setup.without:
        evolved = writer._replace(ghosts=(*writer.ghosts, (command, accepted + 1)))
        return answer(world.with_writer(index, evolved), caller, FAILED)
    if result == REFUSED and "refusal_recorded" in setup.without:
        return answer(world, caller, REFUSED)
    if writer.warned:
        raise Violation("a number is handed out on a chain that was read as broken")
    parts = parts_of(command, result)
    records = []
    number, before = writer.number, writer.before
    for part in range(1, parts + 1):
        number += 1
        record = Record(
            False, writer.epoch, writer.claim, number, part, parts, before, command, result
        )
        before = setup.log.intern(record)
        records.append(before)
    pending = (*writer.pending, Pending(command, tuple(records), result))
    writer = writer._replace(number=number, before=before, pending=pending)
    world = world.with_writer(index, writer)
    if "one_batch" in setup.without:
        return world.sent(*((record,) for record in records))
    return world.sent(tuple(records))


def _read_claiming(setup: Setup, world: World, index: int, node: Node, record: Record) -> World:
    writer = world.writers[index]
    own = record.marker and node.record == writer.before
    if node.valid and own:
        served = writer._replace(phase=SERVING, since=0, before=node.tip.digest)
        return world.with_writer(index, served)._replace(lease=record.epoch)
    if own and node.tip == setup.log.nodes[writer.since].tip:
        raise Violation("a marker is void though no rival came first")
    if own or (node.valid and record.marker):
        return doubt(setup, world, index)
    return world


def _read_valid(setup: Setup, world: World, index: int, node: Node, record: Record) -> World:
    writer = world.writers[index]
    if record.marker:
        own = node.record == writer.before or record.claim == writer.claim
        return world if own or "deposed_stops" in setup.without else doubt(setup, world, index)
    if record.claim != writer.claim:
        return world
    if writer.pending:
        expected = writer.pending[0].records[0]
        loose = "match_digest" in setup.without
        if node.record == expected or (loose and record.number == setup.record(expected).number):
            return _confirm(setup, world, index)
    if "other_valid_is_doubt" in setup.without:
        return world.with_writer(index, writer._replace(missed=True))
    return doubt(setup, world, index)


def _read_void(setup: Setup, world: World, index: int, node: Node, record: Record) -> World:
    writer = world.writers[index]
    if node.record in node.valid_ids:
        if record.claim == writer.claim and "copy_ignored" in setup.without:
            raise Violation("a doubled send alone puts its writer in doubt")
        return world
    if not any(node.record in pending.records for pending in writer.pending):
        return world
    if "read_back_valid" in setup.without:
        return _answer_any(setup, world, index, node.record)
    if "own_void_is_doubt" in setup.without:
        return world.with_writer(index, writer._replace(warned=True))
    return doubt(setup, world, index)


def _answer_any(setup: Setup, world: World, index: int, last: int) -> World:
    """Without `read_back_valid`: to see a command's last record is enough."""
    for pending in world.writers[index].pending:
        if pending.records[-1] == last:
            for caller, client in enumerate(world.clients):
                waits = client.status == WAITING and client.writer == index
                if waits and setup.scenario.commands[caller] == pending.command:
                    world = answer(world, caller, pending.answer)
    return world


def _confirm(setup: Setup, world: World, index: int) -> World:
    """The next expected record was read back; with a command's last one its callers hear."""
    writer = world.writers[index]
    head, *rest = writer.pending
    if len(head.records) > 1:
        head = head._replace(records=head.records[1:])
        return world.with_writer(index, writer._replace(pending=(head, *rest)))
    world = world.with_writer(index, writer._replace(pending=tuple(rest)))
    for caller, client in enumerate(world.clients):
        command = setup.scenario.commands[caller]
        if client.status == WAITING and client.writer == index and same_id(command, head.command):
            result = head.answer if command == head.command else CONFLICT
            world = answer(world, caller, result)
    return world
