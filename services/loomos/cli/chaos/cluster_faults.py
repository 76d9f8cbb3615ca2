"""Faults of three brokers: one killed, the lead moved, too few in sync, copies asked for."""

import asyncio
import secrets
import signal
from collections.abc import Awaitable, Callable

from loom.kit.errors import Failure
from loom.v1 import data_pb2 as pb
from loomos.cli.chaos.appends import ORGANISATIONS, sample
from loomos.cli.chaos.cluster import ANSWERS, MEMBERS, POLL_SECONDS, RECOVER_SECONDS, Cluster
from loomos.cli.soak.load import Load

__all__ = ["FAULTS"]

AWAY_SECONDS = 10.0


async def leader_killed(made: Cluster, load: Load) -> str:
    """kill -9 of the broker that leads, during appends."""
    leader = await made.leader()
    leader.kill()
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    after, in_sync = await made.state()
    return f"broker {leader.node} killed, {after} leads, in sync {in_sync}"


async def leader_moved(made: Cluster, load: Load) -> str:
    """The leading broker is told to end: it hands its lead over first."""
    leader = await made.leader()
    assert leader.process is not None
    leader.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(RECOVER_SECONDS):
        while leader.alive:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(POLL_SECONDS)
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    after, _ = await made.state()
    return f"broker {leader.node} handed over to {after}"


async def too_few(made: Cluster, load: Load) -> str:
    """Two of three killed: nothing is acknowledged until one is back."""
    leader = await made.leader()
    for one in made.members:
        if one is not leader:
            one.kill()
    # What was on its way may still have been taken by both.
    await asyncio.sleep(AWAY_SECONDS)
    code, said = "", ""
    request = pb.AppendEventRequest(
        organisation_id=ORGANISATIONS[0], event=sample(f"few-{made.rounds}", "few")
    )
    began = load.answered
    try:
        await made.people.tell(request, request.organisation_id, timeout_s=AWAY_SECONDS)
    except Failure as failure:
        code, said = failure.code, str(failure)
    assert code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), f"an append was told {code or 'OK'}"
    acknowledged = load.answered - began
    assert not acknowledged, f"{acknowledged} commands were answered with one broker of three"
    await made.whole()
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return f"one broker left: {code}: {said[:100]}; went on when the others came back"


async def all_killed(made: Cluster, load: Load) -> str:
    """kill -9 of all three at once."""
    for one in made.members:
        one.kill()
    await made.whole()
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    return "three brokers killed and started"


async def copies_asked_for(made: Cluster, load: Load) -> str:
    """QUORUM is given with a broker away, ALL is refused with the numbers and given afterwards."""
    await told(made, "ALL", "OK")
    number, _ = await made.state()
    follower = next(one for one in made.members if one.node != number)
    follower.kill()
    refusal = await told(made, "ALL", "FAILED_PRECONDITION")
    assert f"the log has {MEMBERS} replicas" in refusal, refusal
    assert f"{MEMBERS} of them in sync" not in refusal, refusal
    quorum = await level(made, "QUORUM")
    assert quorum == "OK", f"with one broker of three away QUORUM was told {quorum}"
    await made.whole()
    await told(made, "ALL", "OK")
    return f"with one broker away ALL was told {refusal}"


async def told(made: Cluster, name: str, code: str) -> str:
    """What appends of this consistency are told, once it is this: what is known of copies is old.

    TimeoutError where they never are.
    """
    async with asyncio.timeout(RECOVER_SECONDS):
        while True:
            found = await level(made, name)
            if found.startswith(code):
                return found
            await asyncio.sleep(POLL_SECONDS)


async def level(made: Cluster, name: str) -> str:
    """What one append of this consistency is told; asked again while nothing is known."""
    request = pb.AppendEventRequest(
        organisation_id=ORGANISATIONS[0],
        event=sample(f"level-{secrets.token_hex(8)}", "levels"),
        consistency=f"CONSISTENCY_{name}",  # pyright: ignore
    )
    return await made.people.verdict(request, request.organisation_id, RECOVER_SECONDS)


FAULTS: dict[str, Callable[[Cluster, Load], Awaitable[str]]] = {
    "leader killed": leader_killed,
    "leader moved": leader_moved,
    "too few in sync": too_few,
    "copies asked for": copies_asked_for,
    "all killed": all_killed,
}
