"""From the scheduler's log to files that go: checkpoint on a real log, database and store."""

import asyncio
import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from tests import callers
from tests.appending import append, origin, writing
from tests.shells import serving

from loom.decider import Rejected, Resource
from loom.kit.authorize import Caller, Decision, Scope
from loom.kit.call import Call
from loom.kit.errors import Failure
from loom.kit.service import Shell
from loom.log import envelope
from loom.log.clock import now_us
from loom.log.writer import Writer
from loom.v1 import checkpoint_pb2 as pb
from loom.v1 import scheduler_pb2 as scheduler
from loomos.checkpoint.main import SERVICE
from loomos.node_agent import artifacts

pytestmark = [pytest.mark.bus, pytest.mark.db]
PROJECT = "acme.vision"
JOB = "job-local-aaaaaaaaaaaaaaaaaaaa"


class Judge(callers.Judge):
    """Shows everything, or these projects alone."""

    def __init__(self, *projects: str) -> None:
        super().__init__()
        self.projects = list(projects)

    def may(self, principal: str, action: str, resource: Resource) -> Decision:
        return Decision(not self.projects or resource.id in self.projects, ("test",))

    def scope(self, principal: str, action: str) -> Scope:
        return Scope(not self.projects, [], self.projects)


class World:
    """A checkpoint service, the scheduler's log before it and an artifact store behind it."""

    def __init__(self, shell: Shell, writer: Writer, folder: Path) -> None:
        self.shell, self.writer, self.folder = shell, writer, folder
        self.store = shell.settings.home / "artifacts"
        self.versions = 0

    async def happens(self, event: Message) -> None:
        """The scheduler's log has the event."""
        self.versions += 1
        drafts = envelope.draft([event], [self.versions], origin("scheduler"))
        await append(self.writer, [drafts])

    async def checkpoint(self, epoch: int, run: int = 1) -> scheduler.CheckpointRef:
        """A run leaves a checkpoint in the store, and the scheduler's log says so."""
        work = self.folder / f"epoch-{epoch}"
        work.mkdir()
        (work / "model.bin").write_bytes(f"weights of epoch {epoch}".encode())
        kept = artifacts.keep(work, self.store, JOB, 1 << 20)
        ref = scheduler.CheckpointRef(
            path=kept.location, sha256=kept.sha256, size_bytes=kept.size_bytes, epoch=epoch,
            step=epoch, run=run, node_id="node-local-a",
        )  # fmt: skip
        metric = scheduler.JobMetric(name="loss", value=1 / epoch, epoch=epoch)
        await self.happens(
            scheduler.JobProgressed(
                job_id=JOB, run=run, epoch=epoch, metrics=[metric], project_id=PROJECT
            )
        )
        await self.happens(
            scheduler.JobCheckpointed(
                job_id=JOB, run=run, checkpoint=ref, at_us=now_us(), project_id=PROJECT
            )
        )
        return ref

    def call(self, *projects: str) -> Call:
        return callers.call(Caller("user:usr-acme-x", "acme", "user", Judge(*projects)))

    async def tells(self, command: Message) -> Any:
        return await asyncio.wait_for(self.shell.tell(command, self.call()), 20)

    async def listed(self, **fields: Any) -> dict[int, pb.CheckpointInfo]:
        """Epoch → checkpoint."""
        request = pb.ListCheckpointsRequest(job_id=JOB, **fields)
        page: Any = await self.shell.ask("ListCheckpoints", request, self.call())
        return {one.epoch: one for one in page.checkpoints}

    async def until(self, wanted: dict[int, int]) -> dict[int, pb.CheckpointInfo]:
        """The job's checkpoints once their states are these, by epoch."""
        found: dict[int, pb.CheckpointInfo] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(40):
                while {epoch: one.status for epoch, one in found.items()} != wanted:
                    await asyncio.sleep(0.1)
                    found = await self.listed()
        assert {epoch: one.status for epoch, one in found.items()} == wanted
        return found


@pytest.fixture
async def world(fresh_log, fresh_database, settings, platform, tmp_path):
    shell = Shell(SERVICE, settings("checkpoint"))
    shell.authorizer = Judge()
    shell.owner = "test"
    async with writing(platform.administrator, "loomos.scheduler") as writer, serving(shell):
        yield World(shell, writer, tmp_path)
    shutil.rmtree(shell.settings.home / "artifacts", ignore_errors=True)


async def test_checkpoints_are_recorded_kept_verified_and_deleted(world: World) -> None:
    completed, verified = pb.CHECKPOINT_STATUS_COMPLETED, pb.CHECKPOINT_STATUS_VERIFIED
    corrupted, deleted = pb.CHECKPOINT_STATUS_CORRUPTED, pb.CHECKPOINT_STATUS_DELETED
    await world.tells(
        pb.SetRetentionRequest(
            project_id=PROJECT,
            checkpoints_per_job_max=2,
            best_metric="loss",
            best_order=pb.METRIC_ORDER_HIGHEST,
        )
    )
    await world.happens(scheduler.JobPlaced(job_id=JOB, run=1, project_id=PROJECT))
    refs = {epoch: await world.checkpoint(epoch) for epoch in (1, 2, 3, 4)}
    # Epoch 1 has the highest loss, so the policy keeps it beside the newest.
    found = await world.until({1: completed, 4: completed})
    gone = await world.listed(status=deleted)
    assert set(gone) == {2, 3}
    present = {folder.name for folder in (world.store / JOB).iterdir()}
    assert present == {refs[epoch].sha256.hex() for epoch in (1, 4)}
    assert (found[4].number, found[4].parent_id) == (4, gone[3].checkpoint_id)
    assert found[4].metrics[0].value == 0.25

    # One is whole, the other lost a byte.
    await world.tells(pb.RequestRestoreRequest(checkpoint_id=found[4].checkpoint_id))
    (world.store / refs[1].path / "files" / "model.bin").write_bytes(b"weights of epoch !")
    await world.tells(pb.VerifyCheckpointRequest(checkpoint_id=found[1].checkpoint_id))
    found = await world.until({1: corrupted, 4: verified})
    assert found[4].held_until_us > now_us()
    assert "model.bin" in found[1].problem

    # The job's last one stays until the job has ended and nobody holds or protects it.
    await world.tells(pb.ProtectCheckpointRequest(checkpoint_id=found[4].checkpoint_id))
    with pytest.raises(Failure, match="protected"):
        await world.tells(pb.DeleteCheckpointRequest(checkpoint_id=found[4].checkpoint_id))
    best: Any = await world.shell.ask(
        "GetBestCheckpoint",
        pb.GetBestCheckpointRequest(job_id=JOB, metric="loss"),
        world.call(PROJECT),
    )
    assert best.checkpoint_id == found[4].checkpoint_id
    await world.tells(pb.DeleteCheckpointRequest(checkpoint_id=found[1].checkpoint_id))
    await world.until({4: verified})

    # Another tenant learns nothing.
    request = pb.GetCheckpointInfoRequest(checkpoint_id=found[4].checkpoint_id)
    with pytest.raises(Rejected, match="no checkpoint"):
        await world.shell.ask("GetCheckpointInfo", request, world.call("other.project"))
    kept: Any = await world.shell.ask(
        "GetRetention", pb.GetRetentionRequest(project_id=PROJECT), world.call()
    )
    assert kept.checkpoints_per_job_max == 2


async def test_content_that_was_taken_again_survives_the_deletion_of_the_older(
    world: World,
) -> None:
    completed = pb.CHECKPOINT_STATUS_COMPLETED
    await world.tells(pb.SetRetentionRequest(project_id=PROJECT, checkpoints_per_job_max=1))
    await world.happens(scheduler.JobPlaced(job_id=JOB, run=1, project_id=PROJECT))
    first = await world.checkpoint(1)
    await world.until({1: completed})
    # The job's outputs are the same bytes: the agent takes them, and nobody has said so yet.
    taken = artifacts.keep(world.folder / "epoch-1", world.store, JOB, 1 << 20)
    assert taken.location == first.path
    await world.checkpoint(2)
    await world.until({2: completed})
    gone = await world.listed(status=pb.CHECKPOINT_STATUS_DELETED)
    assert set(gone) == {1}
    artifacts.fetch(world.store, first.path, first.sha256, world.folder / "back")
