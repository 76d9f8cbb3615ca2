"""The rules of models and deployments, purely."""

from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loom.decider import Code, Context, Position, Recorded, Rejected, Resource, fold, shard_of
from loom.v1 import deployment_pb2 as pb
from loomos.deployment import policy
from loomos.deployment.decide import decide, resource
from loomos.deployment.evolve import evolve
from loomos.deployment.project import project
from loomos.deployment.state import Phase, State, initial

PROJECT = "acme.vision"
GOOD = {"accuracy": 950_000, "precision": 940_000, "recall": 930_000}
READY = pb.Endpoint(served_name="acme.vision.digits")


class World:
    """A project's state and all that was logged about it."""

    def __init__(self) -> None:
        self.state = initial(PROJECT)
        self.log: list[Any] = []
        self.numbers = count(1)

    def when(self, command: Any) -> list[Any]:
        context = Context(f"c-{next(self.numbers)}", 1, "user:usr-acme-a", PROJECT)
        events = decide(command, self.state, context)
        fold(evolve, self.state, events)
        self.log += events
        return events

    def refused(self, command: Any) -> Rejected:
        with pytest.raises(Rejected) as refused:
            self.when(command)
        return refused.value

    def deployed(self, **metrics: int) -> str:
        """A registered version whose staging deployment is served; the deployment's id."""
        request = self.when(register(metrics=metrics or GOOD))[-1]
        assert isinstance(request, pb.DeploymentRequested)
        self.when(ready(request.deployment_id, request.revision))
        return request.deployment_id

    def phase(self, deployment_id: str) -> Phase:
        return self.state.deployments[deployment_id].phase


def register(job: str = "", run: int = 0, metrics: dict[str, int] | None = None) -> Any:
    file = pb.ArtifactFile(path="model.npz", sha256=b"x" * 32, size_bytes=9, location="j/model.npz")
    return pb.RegisterModelVersionRequest(
        project_id=PROJECT,
        model_name="digits",
        plugin="sklearn-linear",
        lineage=pb.Lineage(job_id=job, run=run),
        metrics=[pb.ModelMetric(name=k, value_ppm=v) for k, v in (metrics or {}).items()],
        artifact=pb.Artifact(files=[file]),
    )


def ready(deployment_id: str, revision: int) -> Any:
    return pb.ReportDeploymentReadyRequest(
        deployment_id=deployment_id, revision=revision, endpoint=READY
    )


def failed(deployment_id: str, revision: int) -> Any:
    return pb.ReportDeploymentFailedRequest(
        deployment_id=deployment_id, revision=revision, reason="the file is not the registered one"
    )


def kinds(events: list[Any]) -> list[str]:
    return [type(event).__name__ for event in events]


def test_a_good_first_version_founds_the_model_and_goes_to_staging() -> None:
    events = World().when(register("job-local-a", 1, GOOD))
    assert kinds(events) == [
        "ModelRegistered",
        "ModelVersionRegistered",
        "AutoDeploymentJudged",
        "DeploymentRequested",
    ]
    assert [metric.name for metric in events[1].metrics] == sorted(GOOD)
    assert (events[2].approved, events[2].policy_version) == (True, policy.VERSION)
    request = events[3]
    assert request.environment == pb.ENVIRONMENT_STAGING
    assert (request.revision, request.version, request.policy_version) == (1, 1, policy.VERSION)
    assert shard_of(request.deployment_id) == shard_of(events[0].model_id) == PROJECT


@pytest.mark.parametrize("name", sorted(GOOD))
@pytest.mark.parametrize("value", [None, 800_000, 0, -1])
def test_a_version_with_any_metric_at_or_below_the_threshold_stays(
    name: str, value: int | None
) -> None:
    metrics = {k: v for k, v in {**GOOD, name: value}.items() if v is not None}
    events = World().when(register(metrics=metrics))
    assert kinds(events)[-1] == "AutoDeploymentJudged"
    assert not events[-1].approved
    assert any(reason.startswith(name) for reason in events[-1].reasons)


def test_just_above_the_threshold_is_enough() -> None:
    assert World().when(register(metrics=dict.fromkeys(GOOD, 800_001)))[2].approved


def test_an_older_run_and_a_second_registration_of_one_are_refused() -> None:
    world = World()
    world.when(register("job-local-a", 3))
    older = world.refused(register("job-local-a", 2))
    assert (older.code, older.field) == (Code.FAILED_PRECONDITION, "lineage.run")
    assert world.refused(register("job-local-a", 3)).code == Code.ALREADY_EXISTS
    assert world.when(register("job-local-a", 4))[0].version == 2
    assert world.when(register("job-local-b", 1))[0].version == 3


def test_doubled_names_and_foreign_projects_are_refused() -> None:
    world = World()
    doubled = register(metrics=GOOD)
    doubled.metrics.add(name="recall", value_ppm=1)
    assert world.refused(doubled).field == "metrics[3]"
    twice = register()
    twice.artifact.files.append(twice.artifact.files[0])
    assert world.refused(twice).field == "artifact.files[1]"
    foreign = register()
    foreign.project_id = "other.secret"
    assert world.refused(foreign).field == "project_id"
    assert not world.log


def test_a_deployment_becomes_active_and_its_version_reaches_the_stage() -> None:
    world = World()
    request = world.when(register(metrics=GOOD))[-1]
    started = pb.ReportDeploymentStartedRequest(deployment_id=request.deployment_id, revision=1)
    assert world.phase(request.deployment_id) == Phase.PENDING
    world.when(started)
    assert world.phase(request.deployment_id) == Phase.DEPLOYING
    assert kinds(world.when(ready(request.deployment_id, 1))) == [
        "DeploymentActivated",
        "ModelStageReached",
    ]
    assert world.phase(request.deployment_id) == Phase.ACTIVE
    assert world.when(ready(request.deployment_id, 1)) == []
    assert world.when(started) == []


def test_a_failed_update_leaves_the_earlier_revision_serving() -> None:
    world = World()
    deployment_id = world.deployed()
    assert world.when(register(metrics=GOOD))[-1].deployment_id == deployment_id
    assert world.phase(deployment_id) == Phase.UPDATING
    assert world.when(ready(deployment_id, 1)) == []
    event = world.when(failed(deployment_id, 2))[0]
    assert event.serving_revision == 1
    assert world.phase(deployment_id) == Phase.DEGRADED


def test_a_served_revision_that_is_lost_fails_once_and_can_be_deployed_again() -> None:
    world = World()
    deployment_id = world.deployed()
    lost = world.when(failed(deployment_id, 1))
    assert kinds(lost) == ["DeploymentFailed"]
    assert (lost[0].serving_revision, lost[0].version) == (0, 1)
    assert (lost[0].environment, lost[0].reason) != (0, "")
    assert world.phase(deployment_id) == Phase.FAILED
    assert world.when(failed(deployment_id, 1)) == []
    again = pb.DeployModelRequest(
        model_id=lost[0].model_id, version=1, environment=pb.ENVIRONMENT_STAGING
    )
    assert world.when(again)[0].revision == 2
    world.when(ready(deployment_id, 2))
    assert world.phase(deployment_id) == Phase.ACTIVE


def test_what_a_degraded_deployment_still_served_may_be_lost_too() -> None:
    world = World()
    deployment_id = world.deployed()
    world.when(register(metrics=GOOD))
    assert world.when(failed(deployment_id, 1)) == [], "a newer revision is on its way"
    world.when(failed(deployment_id, 2))
    lost = world.when(failed(deployment_id, 1))[0]
    assert (lost.revision, lost.version, lost.serving_revision) == (1, 1, 0)
    assert world.phase(deployment_id) == Phase.FAILED


def test_a_first_revision_that_fails_leaves_nothing() -> None:
    world = World()
    request = world.when(register(metrics=GOOD))[-1]
    world.when(failed(request.deployment_id, 1))
    assert world.phase(request.deployment_id) == Phase.FAILED
    again = pb.DeployModelRequest(
        model_id=request.model_id, version=1, environment=pb.ENVIRONMENT_STAGING
    )
    assert world.when(again)[0].revision == 2
    assert world.phase(request.deployment_id) == Phase.PENDING


def test_rolling_back_serves_the_version_before() -> None:
    world = World()
    deployment_id = world.deployed()
    first_only = pb.RollbackDeploymentRequest(deployment_id=deployment_id)
    assert world.refused(first_only).code == Code.FAILED_PRECONDITION
    world.deployed()
    event = world.when(pb.RollbackDeploymentRequest(deployment_id=deployment_id))[0]
    assert (event.revision, event.version, event.rollback_to_revision) == (3, 1, 1)
    assert world.phase(deployment_id) == Phase.ROLLING_BACK
    world.when(ready(deployment_id, 3))
    assert world.phase(deployment_id) == Phase.ACTIVE
    never = pb.RollbackDeploymentRequest(deployment_id=deployment_id, revision=9)
    assert world.refused(never).field == "revision"


def test_a_terminated_deployment_makes_room_for_a_new_one() -> None:
    world = World()
    deployment_id = world.deployed()
    stop = pb.TerminateDeploymentRequest(deployment_id=deployment_id)
    world.when(stop)
    assert world.phase(deployment_id) == Phase.INACTIVE
    assert world.refused(stop).code == Code.FAILED_PRECONDITION
    judged = world.when(register(metrics=GOOD))[-1]
    assert not judged.approved
    world.when(pb.ReportDeploymentUnloadedRequest(deployment_id=deployment_id))
    assert world.phase(deployment_id) == Phase.TERMINATED
    assert world.deployed() != deployment_id


def test_unknown_models_versions_and_deployments() -> None:
    world = World()
    unknown = pb.DeployModelRequest(model_id="model-acme.vision-" + "a" * 20, version=1)
    assert world.refused(unknown).code == Code.NOT_FOUND
    assert resource(unknown, world.state) is None
    model_id = world.when(register())[0].model_id
    newer = pb.DeployModelRequest(model_id=model_id, version=2)
    assert world.refused(newer).field == "version"
    assert resource(newer, world.state) == Resource("project", PROJECT)


def test_what_is_served_already_is_not_served_anew() -> None:
    world = World()
    world.deployed()
    model_id = next(iter(world.state.models))
    same = pb.DeployModelRequest(model_id=model_id, version=1, environment=pb.ENVIRONMENT_STAGING)
    assert world.refused(same).code == Code.ALREADY_EXISTS
    production = pb.DeployModelRequest(
        model_id=model_id, version=1, environment=pb.ENVIRONMENT_PRODUCTION
    )
    request = world.when(production)[0]
    assert kinds(world.when(ready(request.deployment_id, 1)))[-1] == "ModelStageReached"


STEPS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_any_story_replays_to_the_same_state_and_projects(steps: list[tuple[int, int]]) -> None:
    world = World()
    for step, number in steps:
        deployment_id = next(reversed(world.state.deployments), "")
        model_id = next(iter(world.state.models), "")
        command = (
            register(metrics=GOOD),
            register(),
            ready(deployment_id, number),
            failed(deployment_id, number),
            pb.RollbackDeploymentRequest(deployment_id=deployment_id),
            pb.TerminateDeploymentRequest(deployment_id=deployment_id),
            pb.DeployModelRequest(
                model_id=model_id, version=number, environment=pb.ENVIRONMENT_PRODUCTION
            ),
        )[step]
        try:
            world.when(command)
        except Rejected:
            continue
        if world.state.deployments and step == 5:
            world.when(pb.ReportDeploymentUnloadedRequest(deployment_id=deployment_id))
    replayed: State = fold(evolve, initial(PROJECT), world.log)
    assert replayed == world.state
    live = [one for one in world.state.deployments.values() if one.phase != Phase.TERMINATED]
    assert len({(one.model_id, one.environment) for one in live}) == len(live)
    for event in world.log:
        for statement in project(recorded(event)):
            assert statement.sql.count("%s") == len(statement.parameters)


def recorded(event: Any) -> Recorded:
    position = Position("loomos.deployment", 0, 0)
    return Recorded(event, "", "e", "s", 1, PROJECT, position, 1, "user:a", "c", "s", "m")
