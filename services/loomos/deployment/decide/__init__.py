"""Every rule of models and deployments: which events a command causes, or why it is refused."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected, Resource
from loom.v1 import deployment_pb2 as pb
from loomos.deployment.decide.registration import register
from loomos.deployment.decide.rollout import (
    deploy,
    failed,
    ready,
    roll_back,
    started,
    terminate,
    unloaded,
)
from loomos.deployment.state import State

__all__ = ["decide", "resource"]


def resource(command: Message, state: State) -> Resource | None:
    """The project that a command touches; None where it names nothing known."""
    match command:
        case pb.RegisterModelVersionRequest():
            return Resource("project", command.project_id)
        case pb.DeployModelRequest():
            known = command.model_id in state.models
        case (
            pb.RollbackDeploymentRequest()
            | pb.TerminateDeploymentRequest()
            | pb.ReportDeploymentStartedRequest()
            | pb.ReportDeploymentReadyRequest()
            | pb.ReportDeploymentFailedRequest()
            | pb.ReportDeploymentUnloadedRequest()
        ):
            known = command.deployment_id in state.deployments
        case _:
            known = False
    return Resource("project", state.shard) if known else None


def decide(command: Message, state: State, context: Context) -> list[Message]:
    """The events that a command causes, or Rejected."""
    match command:
        case pb.RegisterModelVersionRequest():
            return register(command, state, context)
        case pb.DeployModelRequest():
            return deploy(command, state, context)
        case pb.RollbackDeploymentRequest():
            return roll_back(command, state)
        case pb.TerminateDeploymentRequest():
            return terminate(command, state)
        case pb.ReportDeploymentStartedRequest():
            return started(command, state)
        case pb.ReportDeploymentReadyRequest():
            return ready(command, state)
        case pb.ReportDeploymentFailedRequest():
            return failed(command, state)
        case pb.ReportDeploymentUnloadedRequest():
            return unloaded(command, state)
        case _:
            name = command.DESCRIPTOR.name
            raise Rejected(Code.INVALID_ARGUMENT, f"{name} is no command of deployment")
