"""Rules about users, their passwords and roles."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import security_pb2 as pb
from loomos.security.decide.rights import acting_user, check_grant, check_scope, known_user
from loomos.security.state import PLATFORM, State

__all__ = [
    "create_first_admin",
    "create_user",
    "grant_role",
    "reinstate_user",
    "revoke_role",
    "set_password",
    "suspend_user",
]

ADMIN = (pb.USER_ROLE_ADMIN, PLATFORM)


def create_first_admin(
    command: pb.CreateFirstAdminRequest, state: State, context: Context
) -> list[Message]:
    """The first administrator; the door found the enrolment token valid."""
    if state.enrolled or any(ADMIN in user.roles for user in state.users.values()):
        raise Rejected(
            Code.FAILED_PRECONDITION,
            "an administrator exists: log in, or ask one for an account",
        )
    if len(command.token_sha256) != 32 or not command.password_hash:
        raise Rejected(Code.UNAUTHENTICATED, "the enrolment token is not valid", "token")
    user_id = context.new_id("usr")
    return [
        *founded(user_id, command, state),
        pb.RoleGranted(user_id=user_id, grant=pb.RoleGrant(role=ADMIN[0], scope_id=PLATFORM)),
        pb.EnrolmentCompleted(
            organisation_id=PLATFORM, user_id=user_id, token_sha256=command.token_sha256
        ),
    ]


def create_user(command: pb.CreateUserRequest, state: State, context: Context) -> list[Message]:
    """A user with first roles, none beyond the caller's own."""
    if not state.exists:
        raise Rejected(
            Code.NOT_FOUND,
            f"organisation {state.shard!r} is not known: list organisations",
            "organisation_id",
        )
    user_id = context.new_id("usr")
    events = founded(user_id, command, state)
    wanted = sorted({(grant.role, grant.scope_id) for grant in command.roles})
    for role, scope_id in wanted:
        grant = pb.RoleGrant(role=role, scope_id=scope_id)
        check_scope(grant, state)
        check_grant(grant, state, context)
        events.append(pb.RoleGranted(user_id=user_id, grant=grant))
    return events


def founded(
    user_id: str, command: pb.CreateUserRequest | pb.CreateFirstAdminRequest, state: State
) -> list[Message]:
    """A user's first events."""
    user_name, password_hash = command.user_name, command.password_hash
    if user_name in state.names or command.user_name_index in state.names:
        raise Rejected(
            Code.ALREADY_EXISTS,
            f"user name {user_name!r} is taken in {state.shard!r}: choose another",
            "user_name",
        )
    events: list[Message] = [
        pb.UserCreated(
            user_id=user_id,
            organisation_id=state.shard,
            user_name=user_name,
            user_name_index=command.user_name_index,
            auth_provider=pb.AUTH_PROVIDER_LOCAL,
        )
    ]
    if password_hash:
        events.append(
            pb.PasswordSet(user_id=user_id, password_hash=password_hash, password_version=1)
        )
    return events


def set_password(command: pb.SetPasswordRequest, state: State, context: Context) -> list[Message]:
    """A new password; one's own is changed by who knows the one so far."""
    user = known_user(command.user_id, state)
    own = acting_user(context) == command.user_id
    if own and user.password_version and command.verified_version != user.password_version:
        raise Rejected(
            Code.PERMISSION_DENIED,
            "the current password does not fit: give the one that is valid now",
            "current_password",
        )
    if not command.password_hash:
        raise Rejected(Code.INVALID_ARGUMENT, "the password is empty: give a new one", "password")
    return [
        pb.PasswordSet(
            user_id=command.user_id,
            password_hash=command.password_hash,
            password_version=user.password_version + 1,
        )
    ]


def suspend_user(command: pb.SuspendUserRequest, state: State) -> list[Message]:
    """Shut a user out; the platform keeps one administrator."""
    user = known_user(command.user_id, state)
    if user.status == pb.USER_STATUS_SUSPENDED:
        return []
    if ADMIN in user.roles:
        check_another_admin(command.user_id, state)
    return [pb.UserSuspended(user_id=command.user_id, reason=command.reason)]


def reinstate_user(
    command: pb.ReinstateUserRequest, state: State, context: Context
) -> list[Message]:
    """Let a suspended or locked user in again."""
    user = known_user(command.user_id, state)
    if user.status == pb.USER_STATUS_ACTIVE and user.locked_until_us <= context.at_us:
        return []
    return [pb.UserReinstated(user_id=command.user_id)]


def grant_role(command: pb.GrantRoleRequest, state: State, context: Context) -> list[Message]:
    """A role for a user of this organisation."""
    user = known_user(command.user_id, state)
    check_scope(command.grant, state)
    check_grant(command.grant, state, context)
    if (command.grant.role, command.grant.scope_id) in user.roles:
        return []
    return [pb.RoleGranted(user_id=command.user_id, grant=command.grant)]


def revoke_role(command: pb.RevokeRoleRequest, state: State, context: Context) -> list[Message]:
    """A role taken back; the platform keeps one administrator."""
    user = known_user(command.user_id, state)
    check_grant(command.grant, state, context)
    grant = (command.grant.role, command.grant.scope_id)
    if grant not in user.roles:
        return []
    if grant == ADMIN:
        check_another_admin(command.user_id, state)
    return [pb.RoleRevoked(user_id=command.user_id, grant=command.grant)]


def check_another_admin(user_id: str, state: State) -> None:
    """Rejected where nobody else could administer the platform."""
    for other_id, other in state.users.items():
        active = other.status == pb.USER_STATUS_ACTIVE
        if other_id != user_id and active and ADMIN in other.roles:
            return
    raise Rejected(
        Code.FAILED_PRECONDITION,
        f"user {user_id!r} is the only administrator of the platform: make another one first",
        "user_id",
    )
