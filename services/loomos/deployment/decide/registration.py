"""The rules of registration.

1. A version of an older run of a job than the newest known is refused; a run registers once.
2. An artifact names each file once, by its digest; a metric is named once.
3. What the auto-deploy policy said stands in the log beside the version, approved or not.
"""

from collections.abc import Iterable

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import deployment_pb2 as pb
from loomos.deployment import policy
from loomos.deployment.decide.rollout import next_revision
from loomos.deployment.state import Model, Phase, State, target

__all__ = ["register"]


def register(
    command: pb.RegisterModelVersionRequest, state: State, context: Context
) -> list[Message]:
    """The model if it is new, its next version, and what the auto-deploy policy says of it."""
    if command.project_id != context.shard:
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"project_id {command.project_id!r} is not the project addressed, {context.shard!r}",
            "project_id",
        )
    refuse_doubles((metric.name for metric in command.metrics), "metrics")
    refuse_doubles((file.path for file in command.artifact.files), "artifact.files")
    refuse_stale(command.lineage, state)
    events: list[Message] = []
    model = state.models.get(state.model_ids.get(command.model_name, ""))
    if model is None:
        model = Model(context.new_id("model"), command.model_name)
        events.append(
            pb.ModelRegistered(
                model_id=model.id,
                project_id=command.project_id,
                model_name=command.model_name,
            )
        )
    registered = pb.ModelVersionRegistered(
        model_id=model.id,
        project_id=command.project_id,
        model_name=command.model_name,
        version=len(model.versions) + 1,
        plugin=command.plugin,
        lineage=command.lineage,
        metrics=sorted(command.metrics, key=lambda metric: metric.name),
        artifact=pb.Artifact(files=sorted(command.artifact.files, key=lambda file: file.path)),
    )
    judgement = policy.judge(registered.metrics)
    staging = state.deployments.get(state.targets.get(target(model.id, pb.ENVIRONMENT_STAGING), ""))
    if staging is not None and staging.phase == Phase.INACTIVE:
        judgement = policy.Judgement(False, (f"{staging.id} is stopping",))
    events += [
        registered,
        pb.AutoDeploymentJudged(
            model_id=model.id,
            version=registered.version,
            policy_version=policy.VERSION,
            approved=judgement.approved,
            reasons=judgement.reasons,
        ),
    ]
    if judgement.approved:
        request = next_revision(registered, pb.ENVIRONMENT_STAGING, state, context)
        request.policy_version = policy.VERSION
        request.reason = "; ".join(judgement.reasons)
        events.append(request)
    return events


def refuse_doubles(names: Iterable[str], field: str) -> None:
    """Each name stands once."""
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise Rejected(
                Code.INVALID_ARGUMENT,
                f"{field}[{index}] names {name!r} a second time: name each once",
                f"{field}[{index}]",
            )
        seen.add(name)


def refuse_stale(lineage: pb.Lineage, state: State) -> None:
    """A run of a job registers once, and never after a newer run did."""
    source = state.sources.get(lineage.job_id)
    if source is None or lineage.run > source.run:
        return
    if lineage.run < source.run:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"run {lineage.run} of {lineage.job_id} is older than "
            f"{source.run}, which registered already: its work was superseded",
            "lineage.run",
        )
    raise Rejected(
        Code.ALREADY_EXISTS,
        f"run {lineage.run} of {lineage.job_id} registered version "
        f"{source.version} of {source.model_id} already",
        "lineage.run",
    )
