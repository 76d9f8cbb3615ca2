"""What deployment knows of one project: models, versions, deployments and their revisions.

    PENDING → DEPLOYING → ACTIVE ⇄ UPDATING | ROLLING_BACK
       └──────────┴──→ FAILED                 └──→ DEGRADED (an earlier revision goes on)
    ACTIVE, DEGRADED → FAILED where what is served is lost
    any of these → INACTIVE → TERMINATED; FAILED and DEGRADED take a new revision like ACTIVE

1. A model's versions are 1..n without gaps and never change.
2. A job's run never goes down; one run of a job registers one version.
3. At most one deployment that is not TERMINATED stands for a model in an environment.
"""

from dataclasses import dataclass, field
from enum import IntEnum

from loom.v1 import deployment_pb2 as pb

__all__ = ["Deployment", "Model", "Phase", "Revision", "Source", "State", "Version", "initial"]


class Phase(IntEnum):
    """The nine states; the numbers are the contract's."""

    PENDING = pb.DEPLOYMENT_STATUS_PENDING
    DEPLOYING = pb.DEPLOYMENT_STATUS_DEPLOYING
    ACTIVE = pb.DEPLOYMENT_STATUS_ACTIVE
    UPDATING = pb.DEPLOYMENT_STATUS_UPDATING
    ROLLING_BACK = pb.DEPLOYMENT_STATUS_ROLLING_BACK
    DEGRADED = pb.DEPLOYMENT_STATUS_DEGRADED
    INACTIVE = pb.DEPLOYMENT_STATUS_INACTIVE
    FAILED = pb.DEPLOYMENT_STATUS_FAILED
    TERMINATED = pb.DEPLOYMENT_STATUS_TERMINATED


@dataclass(slots=True)
class Version:
    """What a deployment of this version must carry."""

    plugin: str
    artifact: bytes
    """The contract's Artifact, serialized."""
    stage: int = pb.MODEL_STAGE_DEVELOPMENT


@dataclass(slots=True)
class Model:
    """A named model; version n stands at index n - 1."""

    id: str
    name: str
    versions: list[Version] = field(default_factory=list)


@dataclass(slots=True)
class Source:
    """The newest run of a job that registered a version, and which one."""

    run: int
    model_id: str
    version: int


@dataclass(slots=True)
class Revision:
    """What one revision serves; `served` once it was ready."""

    version: int
    served: bool = False


@dataclass(slots=True)
class Deployment:
    """A model in an environment; revision n stands at index n - 1."""

    id: str
    model_id: str
    environment: int
    phase: Phase = Phase.PENDING
    revisions: list[Revision] = field(default_factory=list)
    serving_revision: int = 0


@dataclass(slots=True)
class State:
    """One project, whose id is the shard."""

    shard: str
    models: dict[str, Model] = field(default_factory=dict)
    model_ids: dict[str, str] = field(default_factory=dict)
    """Model name → id."""
    sources: dict[str, Source] = field(default_factory=dict)
    """Job id → what it registered last."""
    deployments: dict[str, Deployment] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    """`target(model, environment)` → the deployment that is not TERMINATED."""


def initial(shard: str) -> State:
    """A project without models."""
    return State(shard=shard)


def target(model_id: str, environment: int) -> str:
    """The key under which a model's deployment in an environment is found."""
    return f"{model_id}/{environment}"
