"""Rules about organisations, projects, the data they may use and their limits."""

from google.protobuf.message import Message

from loom.decider import Code, Rejected
from loom.v1 import security_pb2 as pb
from loom.v1.common_pb2 import DataClassification
from loomos.security.decide.rights import known_user
from loomos.security.state import State

__all__ = [
    "create_organisation",
    "create_project",
    "grant_dataset_access",
    "revoke_dataset_access",
    "set_quota",
]

OPEN = (
    DataClassification.DATA_CLASSIFICATION_PUBLIC,
    DataClassification.DATA_CLASSIFICATION_INTERNAL,
)
"""What a project may use when nothing is said."""


def create_organisation(command: pb.CreateOrganisationRequest, state: State) -> list[Message]:
    """A tenant, decided in its own shard."""
    if state.exists:
        raise Rejected(
            Code.ALREADY_EXISTS,
            f"organisation {state.shard!r} exists: choose another id",
            "organisation_id",
        )
    return [
        pb.OrganisationCreated(
            organisation_id=state.shard,
            display_name=command.display_name or state.shard,
        )
    ]


def create_project(command: pb.CreateProjectRequest, state: State) -> list[Message]:
    """A project, whose id begins with its organisation's."""
    check_organisation(state)
    organisation, _, name = command.project_id.partition(".")
    if organisation != state.shard:
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"project {command.project_id!r} is not one of {state.shard!r}: "
            f"its id must begin with '{state.shard}.'",
            "project_id",
        )
    if command.project_id in state.projects:
        raise Rejected(
            Code.ALREADY_EXISTS,
            f"project {command.project_id!r} exists: choose another name",
            "project_id",
        )
    return [
        pb.ProjectCreated(
            project_id=command.project_id,
            organisation_id=state.shard,
            display_name=command.display_name or name,
            classifications=sorted(command.classifications) or OPEN,
        )
    ]


def grant_dataset_access(command: pb.GrantDatasetAccessRequest, state: State) -> list[Message]:
    """An explicit permission; the project itself must be allowed such data."""
    user = known_user(command.user_id, state)
    allowed = known_project(command.project_id, state)
    if command.classification not in allowed:
        name = DataClassification.Name(command.classification)
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"project {command.project_id!r} may not use data classified {name}: "
            "choose a project that was created with it",
            "classification",
        )
    if (command.project_id, command.classification) in user.datasets:
        return []
    return [
        pb.DatasetAccessGranted(
            user_id=command.user_id,
            project_id=command.project_id,
            classification=command.classification,
        )
    ]


def revoke_dataset_access(command: pb.RevokeDatasetAccessRequest, state: State) -> list[Message]:
    """The permission taken back."""
    user = known_user(command.user_id, state)
    if (command.project_id, command.classification) not in user.datasets:
        return []
    return [
        pb.DatasetAccessRevoked(
            user_id=command.user_id,
            project_id=command.project_id,
            classification=command.classification,
        )
    ]


def set_quota(command: pb.SetQuotaRequest, state: State) -> list[Message]:
    """All limits of one subject anew."""
    check_organisation(state)
    subject = command.subject_id
    if subject != state.shard and subject not in state.projects and subject not in state.users:
        raise Rejected(
            Code.NOT_FOUND,
            f"subject {subject!r} is neither organisation {state.shard!r} nor one of "
            "its projects or users",
            "subject_id",
        )
    limits: dict[int, pb.QuotaLimit] = {}
    for limit in command.limits:
        if limit.kind in limits:
            raise Rejected(
                Code.INVALID_ARGUMENT,
                f"{pb.QuotaKind.Name(limit.kind)} is limited twice: name each kind once",
                "limits",
            )
        limits[limit.kind] = pb.QuotaLimit(
            kind=limit.kind,
            limit=limit.limit,
            type=limit.type or pb.QUOTA_TYPE_HARD,
            enforcement=limit.enforcement or pb.QUOTA_ENFORCEMENT_STRICT,
        )
    ordered = tuple(limits[kind] for kind in sorted(limits))
    if ordered == state.quotas.get(subject, ()):
        return []
    return [pb.QuotaSet(subject_id=subject, organisation_id=state.shard, limits=ordered)]


def known_project(project_id: str, state: State) -> tuple[DataClassification, ...]:
    """The classifications that a project may use; Rejected as NOT_FOUND where there is none."""
    allowed = state.projects.get(project_id)
    if allowed is None:
        raise Rejected(
            Code.NOT_FOUND, f"project {project_id!r} is not known: list projects", "project_id"
        )
    return allowed


def check_organisation(state: State) -> None:
    """Rejected where nobody founded the organisation."""
    if not state.exists:
        raise Rejected(
            Code.NOT_FOUND,
            f"organisation {state.shard!r} is not known: create it first",
            "organisation_id",
        )
