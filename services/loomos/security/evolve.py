"""What each event of security changes in an organisation's state."""

from google.protobuf.message import Message

from loom.v1 import security_pb2 as pb
from loomos.security.state import ApiKey, JoinToken, State, User

__all__ = ["evolve"]


def evolve(state: State, event: Message) -> None:
    """Change the state by one event; total over security's events, blind to others."""
    match event:
        case pb.UserCreated():
            # Names of users from before there was sealing stand in clear and have no index.
            name = event.user_name_index or event.user_name
            state.users[event.user_id] = User(name)
            state.names[name] = event.user_id
        case (
            pb.PasswordSet()
            | pb.UserSuspended()
            | pb.UserReinstated()
            | pb.RoleGranted()
            | pb.RoleRevoked()
            | pb.DatasetAccessGranted()
            | pb.DatasetAccessRevoked()
            | pb.LoginSucceeded()
            | pb.LoginFailed()
            | pb.UserLocked()
        ):
            evolve_user(state.users[event.user_id], event)
        case pb.OrganisationCreated():
            state.founded = True
        case pb.ProjectCreated():
            state.projects[event.project_id] = tuple(event.classifications)
        case pb.QuotaSet():
            state.quotas[event.subject_id] = tuple(event.limits)
            if not event.limits:
                del state.quotas[event.subject_id]
        case pb.EnrolmentCompleted():
            state.enrolled = True
        case pb.ApiKeyCreated():
            state.api_keys[event.api_key_id] = ApiKey(
                event.user_id, event.secret_sha256, event.expires_at_us
            )
        case pb.ApiKeyRevoked():
            state.api_keys[event.api_key_id].revoked = True
        case pb.SigningKeyPublished():
            state.signing_keys[event.signing_key_id] = event.public_key
        case pb.JoinTokenCreated():
            state.join_tokens[event.join_token_id] = JoinToken(
                event.cluster_id, event.secret_sha256, event.expires_at_us
            )
        case pb.NodeJoined():
            state.join_tokens[event.join_token_id].node_id = event.node_id
            state.nodes[event.node_id] = (event.cluster_id, event.node_name)
            state.node_names.add((event.cluster_id, event.node_name))
        case _:
            pass


def evolve_user(user: User, event: Message) -> None:
    """What an event of a user's stream changes in that user."""
    match event:
        case pb.PasswordSet():
            user.password_version = event.password_version
            user.failures = 0
        case pb.UserSuspended():
            user.status = pb.USER_STATUS_SUSPENDED
        case pb.UserReinstated():
            user.status = pb.USER_STATUS_ACTIVE
            user.failures = 0
            user.locked_until_us = 0
        case pb.RoleGranted():
            user.roles.add((event.grant.role, event.grant.scope_id))
        case pb.RoleRevoked():
            user.roles.discard((event.grant.role, event.grant.scope_id))
        case pb.DatasetAccessGranted():
            user.datasets.add((event.project_id, event.classification))
        case pb.DatasetAccessRevoked():
            user.datasets.discard((event.project_id, event.classification))
        case pb.LoginSucceeded():
            user.failures = 0
        case pb.LoginFailed():
            user.failures = event.failures
        case pb.UserLocked():
            user.failures = 0
            user.locked_until_us = event.until_us
