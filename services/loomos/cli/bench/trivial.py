"""The least that a deciding service can be: each command becomes one event of 512 bytes.

It stands in deployment's place, with its contract, topic, certificate and policies, so that all
that surrounds a decision is real. `python -m loomos.cli.bench.trivial` runs it as a process.
"""

import asyncio
import itertools
import random
import string
from dataclasses import dataclass

import uvloop
from google.protobuf.message import Message

from loom.decider import Context, Recorded, Resource, Statement
from loom.kit.config import Settings
from loom.kit.contract import Service
from loom.kit.service import run
from loom.v1 import deployment_pb2 as pb

__all__ = ["NAME", "PAYLOAD_BYTES", "SERVICE", "Requests", "failed"]

NAME = "deployment"
PROJECT = "acme.vision"
PAYLOAD_BYTES = 512
STREAMS = 1000
VARIETY = 2000
SCHEMA = """
CREATE TABLE failures (
  deployment_id text NOT NULL, version bigint NOT NULL, project_id text NOT NULL,
  revision int NOT NULL, failed_at_us bigint NOT NULL,
  PRIMARY KEY (deployment_id, version));
"""
INSERT = "INSERT INTO failures VALUES (%s, %s, %s, %s, %s)"


@dataclass(slots=True)
class Failures:
    """How often each deployment failed."""

    shard: str
    count: int = 0


def decide(command: Message, state: Failures, context: Context) -> list[Message]:
    """A failure is a fact."""
    assert isinstance(command, pb.ReportDeploymentFailedRequest)
    return [failed(command)]


def failed(command: pb.ReportDeploymentFailedRequest) -> pb.DeploymentFailed:
    """The one event that a command comes to."""
    return pb.DeploymentFailed(
        deployment_id=command.deployment_id, revision=command.revision, reason=command.reason
    )


def evolve(state: Failures, event: Message) -> None:
    """Count it."""
    state.count += 1


def resource(command: Message, state: Failures) -> Resource:
    """The project that owns the deployment."""
    return Resource("project", PROJECT)


def project(record: Recorded) -> list[Statement]:
    """A row for each event."""
    event = record.event
    assert isinstance(event, pb.DeploymentFailed)
    row = (record.stream, record.version, record.shard, event.revision, record.at_us)
    return [Statement(INSERT, row)]


SERVICE = Service(
    name=NAME,
    contract=pb,
    initial=Failures,
    decide=decide,
    resource=resource,
    evolve=evolve,
    project=project,
    schema=SCHEMA,
)


class Requests:
    """Commands whose events take 512 bytes, with letters by chance as the peer's payload has."""

    def __init__(self, seed: int = 1) -> None:
        chance = random.Random(seed)  # noqa: S311 - no secret
        streams = [stream(number) for number in range(STREAMS)]
        bare = pb.DeploymentFailed(deployment_id=streams[0], revision=1, reason="x" * 128)
        # From 128 letters on a text's length takes two bytes.
        letters = 128 + PAYLOAD_BYTES - bare.ByteSize()
        self._made = itertools.cycle(
            pb.ReportDeploymentFailedRequest(
                deployment_id=chance.choice(streams),
                revision=1,
                reason="".join(chance.choices(string.ascii_uppercase, k=letters)),
            )
            for _ in range(VARIETY)
        )

    def one(self) -> pb.ReportDeploymentFailedRequest:
        """The next command."""
        return next(self._made)


def stream(number: int) -> str:
    """A deployment's id."""
    token = "".join("abcdefghij"[int(digit)] for digit in f"{number:020d}")
    return f"deployment-{PROJECT}-{token}"


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(SERVICE, Settings.load(NAME)))
