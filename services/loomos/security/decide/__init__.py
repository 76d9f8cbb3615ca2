"""The rules of security, by what they are about; pure.

1. Nobody hands out more than they hold: `rights.check_grant` stands before every role given or
   taken. That the caller may ask at all was decided before, on `resource`, by the policies.
2. Whoever proves an identity wrongly learns one thing only: that it failed.
3. One-time tokens are used up by the event that they allow.
"""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected, Resource
from loom.v1 import security_pb2 as pb
from loomos.security.decide import key, node, tenant, user
from loomos.security.state import PLATFORM, State

__all__ = ["decide", "resource"]


def decide(command: Message, state: State, context: Context) -> list[Message]:
    """The events that a command makes, or Rejected."""
    match command:
        case pb.CreateFirstAdminRequest():
            return user.create_first_admin(command, state, context)
        case pb.CreateOrganisationRequest():
            return tenant.create_organisation(command, state)
        case pb.CreateProjectRequest():
            return tenant.create_project(command, state)
        case pb.CreateUserRequest():
            return user.create_user(command, state, context)
        case pb.SetPasswordRequest():
            return user.set_password(command, state, context)
        case pb.SuspendUserRequest():
            return user.suspend_user(command, state)
        case pb.ReinstateUserRequest():
            return user.reinstate_user(command, state, context)
        case pb.GrantRoleRequest():
            return user.grant_role(command, state, context)
        case pb.RevokeRoleRequest():
            return user.revoke_role(command, state, context)
        case pb.GrantDatasetAccessRequest():
            return tenant.grant_dataset_access(command, state)
        case pb.RevokeDatasetAccessRequest():
            return tenant.revoke_dataset_access(command, state)
        case pb.SetQuotaRequest():
            return tenant.set_quota(command, state)
        case pb.CreateApiKeyRequest():
            return key.create_api_key(command, state, context)
        case pb.RevokeApiKeyRequest():
            return key.revoke_api_key(command, state)
        case pb.LoginRequest():
            return key.login(command, state, context)
        case pb.RecordLoginFailureRequest():
            return key.record_login_failure(command, state, context)
        case pb.IssueTokenRequest():
            return key.issue_token(command, state, context)
        case pb.PublishSigningKeyRequest():
            return key.publish_signing_key(command, state, context)
        case pb.CreateJoinTokenRequest():
            return node.create_join_token(command, state, context)
        case pb.JoinNodeRequest():
            return node.join_node(command, state, context)
        case pb.RenewNodeCertificateRequest():
            return node.renew_node_certificate(command, state)
        case _:
            raise Rejected(
                Code.INVALID_ARGUMENT,
                f"{command.DESCRIPTOR.name} is not a command of security: ask its own service",
            )


def resource(command: Message, state: State) -> Resource | None:
    """What a command touches, for the policies; None where it names what is not there."""
    match command:
        case pb.CreateProjectRequest() | pb.CreateUserRequest():
            return Resource("organisation", state.shard) if state.exists else None
        case (
            pb.SetPasswordRequest()
            | pb.SuspendUserRequest()
            | pb.ReinstateUserRequest()
            | pb.CreateApiKeyRequest()
        ):
            return Resource("user", command.user_id) if command.user_id in state.users else None
        case pb.GrantRoleRequest() | pb.RevokeRoleRequest():
            known = command.user_id in state.users
            return scope(command.grant.scope_id, state) if known else None
        case pb.GrantDatasetAccessRequest() | pb.RevokeDatasetAccessRequest():
            known = command.user_id in state.users
            return scope(command.project_id, state) if known else None
        case pb.SetQuotaRequest():
            return quota_owner(command.subject_id, state)
        case pb.RevokeApiKeyRequest():
            api_key = state.api_keys.get(command.api_key_id)
            return Resource("user", api_key.user_id) if api_key else None
        case pb.RenewNodeCertificateRequest():
            return Resource("node", command.node_id) if command.node_id in state.nodes else None
        case _:
            return Resource(PLATFORM, PLATFORM)


def scope(scope_id: str, state: State) -> Resource | None:
    """The scope as something that can be touched; None where this organisation has it not."""
    if scope_id == PLATFORM == state.shard:
        return Resource(PLATFORM, PLATFORM)
    if scope_id == state.shard and state.exists:
        return Resource("organisation", scope_id)
    return Resource("project", scope_id) if scope_id in state.projects else None


def quota_owner(subject_id: str, state: State) -> Resource | None:
    """Who sets a subject's limits: the platform an organisation's, the organisation the rest."""
    if not state.exists:
        return None
    if subject_id == state.shard:
        return Resource(PLATFORM, PLATFORM)
    known = subject_id in state.projects or subject_id in state.users
    return Resource("organisation", state.shard) if known else None
