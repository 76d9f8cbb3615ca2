"""The fold of the scheduler's log and its projection tell the same of every moment."""

import random

import pytest
from tests.appending import append
from tests.cluster import spec
from tests.integration.conftest import writing
from tests.travelling import travelling

from loom.decider import Context, Position, Rejected
from loom.kit.replay import fold_until, time_at
from loom.log import envelope
from loom.log.clock import now_us
from loom.log.envelope import Origin
from loom.v1 import common_pb2, security_pb2
from loom.v1 import scheduler_pb2 as pb
from loomos.scheduler.decide import decide
from loomos.scheduler.evolve import evolve
from loomos.scheduler.main import SERVICE
from loomos.scheduler.state import initial

ENDED = (pb.JOB_STATUS_COMPLETED, pb.JOB_STATUS_FAILED, pb.JOB_STATUS_CANCELLED)
COMMANDS = 40


class Life:
    """What one scheduler decides, command by command."""

    def __init__(self) -> None:
        self.state = initial("local")
        founded = security_pb2.ProjectCreated(project_id="acme.vision", organisation_id="acme")
        evolve(self.state, founded)
        self.dice = random.Random(7)
        self.versions: dict[str, int] = {}
        self.at_us = now_us() - 60_000_000
        self.jobs: list[str] = []

    def step(self, number: int) -> list[envelope.Draft]:
        """The records of the next command; none where it is refused or changes nothing."""
        self.at_us += 1000
        command = self.asked()
        context = Context(f"c-{number}", self.at_us, "user:usr-acme-a", "local", f"c-{number}")
        try:
            events = decide(command, self.state, context)
        except Rejected:
            return []
        versions = []
        for event in events:
            evolve(self.state, event)
            stream = envelope.stream_of(event)
            self.versions[stream] = self.versions.get(stream, 0) + 1
            versions.append(self.versions[stream])
            if isinstance(event, pb.JobSubmitted):
                self.jobs.append(event.job_id)
        origin = Origin("/loomos/scheduler", "local", context.actor, context.command_id, bytes(32),
                        self.at_us, self.at_us, context.correlation_id, "")  # fmt: skip
        return envelope.draft(events, versions, origin)

    def asked(self):
        """Somebody asks, or time passes."""
        kinds = [pb.CancelJobRequest, pb.PauseJobRequest, pb.ResumeJobRequest]
        if self.jobs and self.dice.random() < 0.5:
            return self.dice.choice(kinds)(job_id=self.dice.choice(self.jobs))
        if self.dice.random() < 0.3:
            return common_pb2.TickRequest(shard_id="local")
        return pb.SubmitJobRequest(project_id="acme.vision", spec=spec(cpus=1))


@pytest.fixture
async def travels(fresh_log, fresh_database, bus, settings):
    async with travelling(SERVICE, bus, settings("scheduler")) as found:
        yield found


async def test_replay_and_as_of_agree_at_every_moment(travels, bus):
    life = Life()
    moments = [life.at_us]
    async with writing(bus, SERVICE.topic) as writer:
        for number in range(COMMANDS):
            drafts = life.step(number)
            if drafts:
                await append(writer, [drafts])
                moments.append(life.at_us)
    assert len(life.jobs) > 5
    seen = set()
    for moment in [*moments[::5], moments[-1]]:
        folder, last = await fold_until(SERVICE, bus, 0, moment)
        there = Position("loomos.scheduler", 0, last)
        assert await time_at(bus, there) == (moment if last >= 0 else None)
        state = folder.states.get("local", initial("local"))
        folded = {name: int(job.status) for name, job in state.jobs.items()}
        async with travels.at(moment) as db:
            cursor = await db.execute("SELECT job_id, status FROM jobs")
            rows = {row["job_id"]: row["status"] for row in await cursor.fetchall()}
        # A job that ended is decided about no more: the decider may forget it, its row stays.
        assert {name: at for name, at in rows.items() if at not in ENDED} == {
            name: at for name, at in folded.items() if at not in ENDED
        }
        assert all(rows[name] == at for name, at in folded.items())
        seen.add(len(rows))
    assert len(seen) > 2
