"""The rules of what is served where.

1. What is served changes by revisions only, numbered 1..n in each deployment.
2. A report about any revision but the newest, or a second report, changes nothing; only that what
   is served is lost is heard whenever nothing newer is on its way.
3. A deployment that was asked to stop takes no further order.
"""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import deployment_pb2 as pb
from loomos.deployment.state import Deployment, Model, Phase, State, target

__all__ = [
    "deploy",
    "failed",
    "next_revision",
    "ready",
    "roll_back",
    "started",
    "terminate",
    "unloaded",
]

STAGES: dict[int, pb.ModelStage] = {
    pb.ENVIRONMENT_STAGING: pb.MODEL_STAGE_STAGING,
    pb.ENVIRONMENT_PRODUCTION: pb.MODEL_STAGE_PRODUCTION,
}


def next_revision(
    version: pb.ModelVersionRegistered, environment: int, state: State, context: Context
) -> pb.DeploymentRequested:
    """The next revision of the model's deployment in an environment, the first one if none."""
    known = state.targets.get(target(version.model_id, environment), "")
    revisions = state.deployments[known].revisions if known else []
    return pb.DeploymentRequested(
        deployment_id=known or context.new_id("deployment"),
        revision=len(revisions) + 1,
        project_id=version.project_id,
        model_id=version.model_id,
        model_name=version.model_name,
        version=version.version,
        environment=environment,  # type: ignore[arg-type]
        replicas=1,
        plugin=version.plugin,
        artifact=version.artifact,
    )


def deploy(command: pb.DeployModelRequest, state: State, context: Context) -> list[Message]:
    """A new revision that serves the named version."""
    model = state.models.get(command.model_id)
    if model is None:
        raise Rejected(Code.NOT_FOUND, f"no model {command.model_id!r}", "model_id")
    if command.version > len(model.versions):
        raise Rejected(
            Code.NOT_FOUND,
            f"no version {command.version} of {model.name!r}: the newest is {len(model.versions)}",
            "version",
        )
    deployment = state.deployments.get(
        state.targets.get(target(command.model_id, command.environment), "")
    )
    if deployment is not None:
        refuse_stopped(deployment)
        newest = deployment.revisions[-1]
        settled = deployment.phase not in (Phase.FAILED, Phase.DEGRADED)
        if settled and newest.version == command.version:
            raise Rejected(
                Code.ALREADY_EXISTS,
                f"revision {len(deployment.revisions)} of {deployment.id} serves version "
                f"{command.version} already",
                "version",
            )
    version = described(model, command.version, state)
    return [next_revision(version, command.environment, state, context)]


def described(model: Model, number: int, state: State) -> pb.ModelVersionRegistered:
    """What a request carries of a version that is known."""
    version = model.versions[number - 1]
    return pb.ModelVersionRegistered(
        model_id=model.id,
        project_id=state.shard,
        model_name=model.name,
        version=number,
        plugin=version.plugin,
        artifact=pb.Artifact.FromString(version.artifact),
    )


def roll_back(command: pb.RollbackDeploymentRequest, state: State) -> list[Message]:
    """A new revision that serves what an earlier one served."""
    deployment = known(command.deployment_id, state)
    refuse_stopped(deployment)
    back = command.revision or last_served(deployment)
    if not 0 < back <= len(deployment.revisions) or not deployment.revisions[back - 1].served:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"revision {back} of {deployment.id} was never served: "
            f"served were {served(deployment) or 'none'}",
            "revision",
        )
    number = deployment.revisions[back - 1].version
    if deployment.phase == Phase.ACTIVE and deployment.revisions[-1].version == number:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"revision {back} has version {number}, which is served already",
            "revision",
        )
    version = described(state.models[deployment.model_id], number, state)
    return [
        pb.DeploymentRequested(
            deployment_id=deployment.id,
            revision=len(deployment.revisions) + 1,
            project_id=version.project_id,
            model_id=version.model_id,
            model_name=version.model_name,
            version=number,
            environment=deployment.environment,  # type: ignore[arg-type]
            replicas=1,
            plugin=version.plugin,
            artifact=version.artifact,
            rollback_to_revision=back,
            reason=command.reason,
        )
    ]


def last_served(deployment: Deployment) -> int:
    """The last revision before the newest that was served, or 0."""
    return max((one for one in served(deployment) if one < len(deployment.revisions)), default=0)


def served(deployment: Deployment) -> list[int]:
    """The revisions that were ready once."""
    return [n for n, revision in enumerate(deployment.revisions, 1) if revision.served]


def terminate(command: pb.TerminateDeploymentRequest, state: State) -> list[Message]:
    """The deployment stops; what it served is unloaded by the effect."""
    deployment = known(command.deployment_id, state)
    refuse_stopped(deployment)
    return [pb.DeploymentStopped(deployment_id=deployment.id, revision=len(deployment.revisions))]


def started(command: pb.ReportDeploymentStartedRequest, state: State) -> list[Message]:
    """A runtime loads the newest revision."""
    deployment = known(command.deployment_id, state)
    if not awaited(deployment, command.revision):
        return []
    return [pb.DeploymentStarted(deployment_id=deployment.id, revision=command.revision)]


def ready(command: pb.ReportDeploymentReadyRequest, state: State) -> list[Message]:
    """The newest revision is served; its version reaches the environment's stage."""
    deployment = known(command.deployment_id, state)
    if not awaited(deployment, command.revision):
        return []
    number = deployment.revisions[command.revision - 1].version
    events: list[Message] = [
        pb.DeploymentActivated(
            deployment_id=deployment.id, revision=command.revision, endpoint=command.endpoint
        )
    ]
    stage = STAGES[deployment.environment]
    if state.models[deployment.model_id].versions[number - 1].stage < stage:
        events.append(
            pb.ModelStageReached(model_id=deployment.model_id, version=number, stage=stage)
        )
    return events


def failed(command: pb.ReportDeploymentFailedRequest, state: State) -> list[Message]:
    """The newest revision is not served and the one before goes on, or what was served is lost."""
    deployment = known(command.deployment_id, state)
    settled = deployment.phase in (Phase.ACTIVE, Phase.DEGRADED)
    lost = settled and command.revision == deployment.serving_revision
    if not lost and not awaited(deployment, command.revision):
        return []
    return [
        pb.DeploymentFailed(
            deployment_id=deployment.id,
            revision=command.revision,
            reason=command.reason,
            serving_revision=0 if lost else deployment.serving_revision,
            model_id=deployment.model_id,
            version=deployment.revisions[command.revision - 1].version,
            environment=deployment.environment,  # type: ignore[arg-type]
        )
    ]


def unloaded(command: pb.ReportDeploymentUnloadedRequest, state: State) -> list[Message]:
    """A stopped deployment is gone."""
    deployment = known(command.deployment_id, state)
    if deployment.phase != Phase.INACTIVE:
        return []
    return [pb.DeploymentTerminated(deployment_id=deployment.id)]


def known(deployment_id: str, state: State) -> Deployment:
    """The deployment, or NOT_FOUND."""
    deployment = state.deployments.get(deployment_id)
    if deployment is None:
        raise Rejected(Code.NOT_FOUND, f"no deployment {deployment_id!r}", "deployment_id")
    return deployment


def refuse_stopped(deployment: Deployment) -> None:
    """A deployment that was asked to stop takes no further order."""
    if deployment.phase in (Phase.INACTIVE, Phase.TERMINATED):
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"{deployment.id} is {deployment.phase.name}: wait until it is TERMINATED, "
            "then deploy the model anew",
            "deployment_id",
        )


def awaited(deployment: Deployment, revision: int) -> bool:
    """True when a report about this revision still says something new."""
    waiting = (Phase.PENDING, Phase.DEPLOYING, Phase.UPDATING, Phase.ROLLING_BACK)
    return deployment.phase in waiting and revision == len(deployment.revisions)
