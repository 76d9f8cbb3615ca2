"""Brings what was decided to the runtime, and its answer back as a command.

An effect may run twice for one event: the runtime answers the same order the same way, refuses
orders older than the newest it knows, and reports about an old revision change nothing.
"""

from loom.decider import Command, Recorded
from loom.kit.errors import Failure
from loom.kit.service import Shell
from loom.v1 import deployment_pb2 as pb
from loom.v1 import runtime_pb2

__all__ = ["effect"]

PASSING = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNAUTHENTICATED"})
"""What may go away by itself: the shell tries the effect again."""


async def effect(record: Recorded, shell: Shell) -> list[Command]:
    """What an event causes at the runtime, reported back."""
    match record.event:
        case pb.DeploymentRequested() as event:
            return await load(event, record, shell)
        case pb.DeploymentFailed() as event if not event.serving_revision:
            # What the log says is not served shall not come back by itself.
            await unload(event, record, shell)
            return []
        case pb.DeploymentStopped() as event:
            await unload(event, record, shell)
            return [Command(pb.ReportDeploymentUnloadedRequest(deployment_id=event.deployment_id))]
        case _:
            return []


async def unload(
    event: pb.DeploymentStopped | pb.DeploymentFailed, record: Recorded, shell: Shell
) -> None:
    """Order the end of a revision; a newer order than this one stands."""
    order = runtime_pb2.UnloadModelRequest(
        deployment_id=event.deployment_id, revision=event.revision
    )
    story, cause = record.correlation_id, record.id
    try:
        await shell.tell(order, key="unload", correlation_id=story, causation_id=cause)
    except Failure as failure:
        if failure.code in PASSING:
            raise
        shell.log.info("order overtaken", cause=cause, reason=failure.message)


async def load(event: pb.DeploymentRequested, record: Recorded, shell: Shell) -> list[Command]:
    """Order the revision; a refusal for good is reported as the revision's failure."""
    started = pb.ReportDeploymentStartedRequest(
        deployment_id=event.deployment_id, revision=event.revision
    )
    order = runtime_pb2.LoadModelRequest(
        deployment_id=event.deployment_id,
        revision=event.revision,
        project_id=event.project_id,
        model_name=event.model_name,
        version=event.version,
        environment=event.environment,
        plugin=event.plugin,
        artifact=event.artifact,
    )
    story, cause = record.correlation_id, record.id
    await shell.tell(started, key="started", correlation_id=story, causation_id=cause)
    try:
        answer = await shell.tell(order, key="load", correlation_id=story, causation_id=cause)
    except Failure as failure:
        if failure.code in PASSING:
            raise
        return [
            Command(
                pb.ReportDeploymentFailedRequest(
                    deployment_id=event.deployment_id,
                    revision=event.revision,
                    reason=f"{failure.code}: {failure.message}",
                )
            )
        ]
    assert isinstance(answer, runtime_pb2.LoadModelResponse)
    return [
        Command(
            pb.ReportDeploymentReadyRequest(
                deployment_id=event.deployment_id,
                revision=event.revision,
                endpoint=answer.endpoint,
            )
        )
    ]
