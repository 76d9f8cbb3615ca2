"""Nobody hands out more than they hold.

1. A role is given or taken by a user who holds one that includes it, at its scope or above.
2. An administrator of the platform acts in other organisations, whose state does not hold them:
   their id names the platform's shard, no other organisation can make such an id, and the
   policies let a platform user change roles only as the platform's administrator.
"""

from loom.decider import Code, Context, Rejected, shard_of
from loom.v1 import security_pb2 as pb
from loomos.security.state import PLATFORM, State, User, enclosing, includes

__all__ = ["acting_user", "check_grant", "check_scope", "known_user"]


def known_user(user_id: str, state: State) -> User:
    """The user of this id; Rejected as NOT_FOUND otherwise."""
    user = state.users.get(user_id)
    if user is None:
        raise Rejected(Code.NOT_FOUND, f"user {user_id!r} is not known: list users", "user_id")
    return user


def acting_user(context: Context) -> str:
    """The id of the user who acts, or "" for a service, a node or nobody."""
    kind, _, name = context.actor.partition(":")
    return name if kind == "user" else ""


def check_scope(grant: pb.RoleGrant, state: State) -> None:
    """Rejected unless the scope is this organisation or one of its projects."""
    if grant.scope_id != state.shard and grant.scope_id not in state.projects:
        raise Rejected(
            Code.NOT_FOUND,
            f"scope {grant.scope_id!r} is neither organisation {state.shard!r} "
            "nor one of its projects",
            "grant.scope_id",
        )


def check_grant(grant: pb.RoleGrant, state: State, context: Context) -> None:
    """Rejected where the acting user does not hold the role themselves."""
    actor = acting_user(context)
    if actor and shard_of(actor) == PLATFORM != state.shard:
        return
    user = state.users.get(actor)
    scopes = enclosing(grant.scope_id)
    if user is not None and user.status == pb.USER_STATUS_ACTIVE:
        for role, scope_id in user.roles:
            if scope_id in scopes and includes(role, grant.role):
                return
    raise Rejected(
        Code.PERMISSION_DENIED,
        f"role {pb.UserRole.Name(grant.role)} at {grant.scope_id!r} exceeds your own roles: "
        "ask someone who holds it there or above",
        "grant.role",
    )
