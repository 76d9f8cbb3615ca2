"""A scheduler and a resource manager joined as in life, without log or network.

What one appends the other hears; reactions are told at once; the test plays the nodes.
"""

import copy
from typing import Any

from google.protobuf.message import Message

from loom.decider import Context, Position, Recorded, Rejected
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb
from loomos.resource_manager import decide as rm_decide
from loomos.resource_manager import evolve as rm_evolve
from loomos.resource_manager import state as rm_state
from loomos.scheduler import decide, evolve, react, state

__all__ = ["GIB", "NOW_US", "SECOND_US", "Cluster", "node", "spec"]

NOW_US = 1_800_000_000_000_000
SECOND_US = 1_000_000
GIB = 2**30


def node(letter: str, cpus: int = 4, gpus: int = 0, **fields: Any) -> rm.RegisterNodeRequest:
    """A node with 8 GiB, named by one letter."""
    return rm.RegisterNodeRequest(
        node_id=f"node-local-{letter * 20}",
        hostname=f"host-{letter}",
        capacity=common_pb2.Resources(
            cpu_milli=cpus * 1000, memory_bytes=8 * GIB, gpu_milli=gpus * 1000
        ),
        gpus=[
            rm.Gpu(uuid=f"GPU-{letter}{n}", index=n, model="A100", memory_bytes=40 * GIB)
            for n in range(gpus)
        ],
        **fields,
    )


def spec(cpus: int = 1, gpus: int = 0, **fields: Any) -> pb.JobSpec:
    """A job that needs little memory."""
    return pb.JobSpec(
        name="job",
        command=["train"],
        resources=common_pb2.Resources(
            cpu_milli=cpus * 1000, memory_bytes=GIB, gpu_milli=gpus * 1000
        ),
        **fields,
    )


class Cluster:
    """Both services' folded states, and all that was appended."""

    def __init__(self, *nodes: rm.RegisterNodeRequest) -> None:
        self.scheduler = state.initial("local")
        self.books = rm_state.initial("local")
        self.now_us = NOW_US
        self.jobs_log: list[Message] = []
        self.books_log: list[Message] = []
        self.heard: list[Message] = []
        """All that the scheduler folded, its own and foreign, in order."""
        self.told = 0
        for one in nodes:
            self.join(one)

    def join(self, one: rm.RegisterNodeRequest) -> None:
        """A node registers and connects."""
        self.tell_books(one)
        self.connect(one.node_id)

    def connect(self, node_id: str, *runs: rm.RunState) -> None:
        """A node's session begins."""
        self.told += 1
        hello = rm.ConnectNodeRequest(
            node_id=node_id, session_id=f"s{self.told}", boot_id="b", runs=runs
        )
        self.tell_books(hello)

    def context(self, actor: str = "user:usr-acme-x") -> Context:
        """The next command's context."""
        self.told += 1
        return Context(f"c-{self.told}", self.now_us, actor, "local")

    def submit(self, job: pb.JobSpec, **fields: Any) -> str:
        """Submit a job; its id."""
        request = pb.SubmitJobRequest(project_id="acme.vision", spec=job)
        (event,) = self.tell(request, **fields)
        assert isinstance(event, pb.JobSubmitted)
        return event.job_id

    def tell(self, command: Message, actor: str = "user:usr-acme-x") -> list[Message]:
        """A command to the scheduler, with all that follows at once; its own events."""
        events = decide.decide(command, self.scheduler, self.context(actor))
        self.append(events)
        return events

    def append(self, events: list[Message]) -> None:
        """The scheduler's events are in its log: fold them one by one and react to each."""
        for event in events:
            evolve.evolve(self.scheduler, event)
            self.heard.append(event)
            self.jobs_log.append(event)
            record = Recorded(
                event, "", "", "", 1, "local", Position("", 0, 0), self.now_us, "", "", "", ""
            )
            for command in react.react(record, self.scheduler):
                self.tell_books(command.request)

    def tell_books(self, command: Message) -> list[Message]:
        """A command to the resource manager; the scheduler hears what comes of it."""
        events = rm_decide.decide(command, self.books, self.context("service:scheduler"))
        for event in events:
            rm_evolve.evolve(self.books, event)
            self.books_log.append(event)
            self.heard.append(event)
            evolve.evolve(self.scheduler, event)
        return events

    def running(self, job: pb.JobSpec | None = None) -> str:
        """A job that runs; its id."""
        job_id = self.submit(job or spec())
        self.settle()
        self.start(job_id)
        assert self.status(job_id) == "RUNNING"
        return job_id

    def settle(self) -> None:
        """Ticks until nothing is due now."""
        for _ in range(10_000):
            at_us = state.due(self.scheduler)
            books_us = rm_state.due(self.books)
            if books_us is not None and books_us <= self.now_us:
                self.tell_books(common_pb2.TickRequest(shard_id="local"))
            elif at_us is not None and at_us <= self.now_us:
                self.tell(common_pb2.TickRequest(shard_id="local"), "service:scheduler")
            else:
                return
        raise AssertionError("the cluster never comes to rest")

    def wait(self, seconds: float) -> None:
        """Let time pass and come to rest."""
        self.now_us += int(seconds * SECOND_US)
        self.settle()

    def start(self, job_id: str) -> None:
        """The node starts the job's run."""
        held = self.held(job_id)
        self.tell_books(
            rm.ReportAllocationStartedRequest(
                allocation_id=held.allocation_id, run=held.run, isolation="uid"
            )
        )
        self.settle()

    def checkpoint(self, job_id: str, epoch: int) -> None:
        """The job writes a checkpoint."""
        held = self.held(job_id)
        self.tell_books(
            rm.ReportAllocationCheckpointRequest(
                allocation_id=held.allocation_id,
                run=held.run,
                checkpoint=pb.CheckpointRef(path=f"e{epoch}", sha256=bytes(32), epoch=epoch),
            )
        )
        self.settle()

    def finish(
        self,
        job_id: str,
        exit_code: int = 0,
        outcome: pb.RunOutcome = pb.RUN_OUTCOME_EXITED,
    ) -> None:
        """The job's process ends."""
        held = self.held(job_id)
        self.tell_books(
            rm.ReportAllocationFinishedRequest(
                allocation_id=held.allocation_id,
                run=held.run,
                result=pb.RunResult(outcome=outcome, exit_code=exit_code),
            )
        )
        self.settle()

    def held(self, job_id: str) -> rm_state.Allocation:
        """The job's live allocation."""
        return self.books.allocations[self.books.holders[job_id]]

    def status(self, job_id: str) -> str:
        """The job's status as a word."""
        return pb.JobStatus.Name(self.scheduler.jobs[job_id].status).removeprefix("JOB_STATUS_")

    def of(self, kind: type) -> list[Any]:
        """All events of a class, of either service."""
        return [event for event in (*self.jobs_log, *self.books_log) if isinstance(event, kind)]

    def refused(self, command: Message, code: str) -> Rejected:
        """The scheduler refuses a command and stays as it was."""
        before = copy.deepcopy(self.scheduler)
        try:
            decide.decide(command, self.scheduler, self.context())
        except Rejected as refusal:
            assert refusal.code == code, refusal.message
            assert self.scheduler == before
            return refusal
        raise AssertionError("the command was accepted")
