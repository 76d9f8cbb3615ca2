"""Changes the state by one event of the service's own; others change nothing."""

from google.protobuf.message import Message

from loom.v1 import deployment_pb2 as pb
from loomos.deployment.state import (
    Deployment,
    Model,
    Phase,
    Revision,
    Source,
    State,
    Version,
    target,
)

__all__ = ["evolve"]


def evolve(state: State, event: Message) -> None:
    """Apply an event in place."""
    match event:
        case pb.ModelRegistered():
            state.models[event.model_id] = Model(event.model_id, event.model_name)
            state.model_ids[event.model_name] = event.model_id
        case pb.ModelVersionRegistered():
            artifact = event.artifact.SerializeToString(deterministic=True)
            state.models[event.model_id].versions.append(Version(event.plugin, artifact))
            lineage = event.lineage
            if lineage.job_id:
                state.sources[lineage.job_id] = Source(lineage.run, event.model_id, event.version)
        case pb.ModelStageReached():
            state.models[event.model_id].versions[event.version - 1].stage = event.stage
        case pb.DeploymentRequested():
            requested(state, event)
        case pb.DeploymentStarted():
            deployment = state.deployments[event.deployment_id]
            if deployment.phase == Phase.PENDING:
                deployment.phase = Phase.DEPLOYING
        case pb.DeploymentActivated():
            deployment = state.deployments[event.deployment_id]
            deployment.phase = Phase.ACTIVE
            deployment.serving_revision = event.revision
            deployment.revisions[event.revision - 1].served = True
        case pb.DeploymentFailed():
            deployment = state.deployments[event.deployment_id]
            deployment.phase = Phase.DEGRADED if event.serving_revision else Phase.FAILED
            deployment.serving_revision = event.serving_revision
        case pb.DeploymentStopped():
            state.deployments[event.deployment_id].phase = Phase.INACTIVE
        case pb.DeploymentTerminated():
            deployment = state.deployments[event.deployment_id]
            deployment.phase = Phase.TERMINATED
            deployment.serving_revision = 0
            del state.targets[target(deployment.model_id, deployment.environment)]


def requested(state: State, event: pb.DeploymentRequested) -> None:
    """A revision: the first one founds the deployment."""
    deployment = state.deployments.get(event.deployment_id)
    if deployment is None:
        deployment = Deployment(event.deployment_id, event.model_id, event.environment)
        state.deployments[event.deployment_id] = deployment
        state.targets[target(event.model_id, event.environment)] = event.deployment_id
    deployment.revisions.append(Revision(event.version))
    if not deployment.serving_revision:
        deployment.phase = Phase.PENDING
    elif event.rollback_to_revision:
        deployment.phase = Phase.ROLLING_BACK
    else:
        deployment.phase = Phase.UPDATING
