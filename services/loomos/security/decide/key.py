"""Rules about what proves an identity: passwords at login, API keys, tokens and who signs them."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import security_pb2 as pb
from loomos.security.decide.rights import acting_user, known_user
from loomos.security.state import State, User

__all__ = [
    "create_api_key",
    "issue_token",
    "login",
    "publish_signing_key",
    "record_login_failure",
    "revoke_api_key",
]

FAILURES_MAX = 5
LOCK_US = 15 * 60 * 1_000_000
LOGIN_REFUSED = "organisation, user name or password is wrong, or the account is locked"
KEY_REFUSED = "the API key is not valid: it is unknown, wrong, revoked or past its end"


def create_api_key(
    command: pb.CreateApiKeyRequest, state: State, context: Context
) -> list[Message]:
    """A key for oneself, or for a program; nobody makes a key that speaks for another person."""
    user = known_user(command.user_id, state)
    if acting_user(context) != command.user_id and not is_program(user):
        raise Rejected(
            Code.PERMISSION_DENIED,
            f"user {command.user_id!r} is a person: people make their own API keys",
            "user_id",
        )
    if command.expires_at_us and command.expires_at_us <= context.at_us:
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"the key would end at {command.expires_at_us}, before now ({context.at_us}): "
            "give a later time or 0",
            "expires_at_us",
        )
    return [
        pb.ApiKeyCreated(
            api_key_id=context.new_id("key"),
            user_id=command.user_id,
            name=command.name,
            secret_sha256=command.secret_sha256,
            expires_at_us=command.expires_at_us,
        )
    ]


def is_program(user: User) -> bool:
    """True for a user whose roles are a service account's and nothing else."""
    return bool(user.roles) and all(role == pb.USER_ROLE_SERVICE_ACCOUNT for role, _ in user.roles)


def revoke_api_key(command: pb.RevokeApiKeyRequest, state: State) -> list[Message]:
    """The end of a key."""
    api_key = state.api_keys.get(command.api_key_id)
    if api_key is None:
        raise Rejected(
            Code.NOT_FOUND,
            f"API key {command.api_key_id!r} is not known: list API keys",
            "api_key_id",
        )
    return [] if api_key.revoked else [pb.ApiKeyRevoked(api_key_id=command.api_key_id)]


def login(command: pb.LoginRequest, state: State, context: Context) -> list[Message]:
    """A token for who knew the password that is valid now."""
    user = state.users.get(command.user_id)
    if (
        user is None
        or user.name not in (command.user_name_index, command.user_name)
        or user.status != pb.USER_STATUS_ACTIVE
        or user.locked_until_us > context.at_us
        or not user.password_version
        or user.password_version != command.verified_version
    ):
        raise Rejected(Code.UNAUTHENTICATED, LOGIN_REFUSED)
    return [pb.LoginSucceeded(user_id=command.user_id)]


def record_login_failure(
    command: pb.RecordLoginFailureRequest, state: State, context: Context
) -> list[Message]:
    """Count a failed login; the fifth in a row locks the account for a while."""
    user = known_user(command.user_id, state)
    if user.status != pb.USER_STATUS_ACTIVE or user.locked_until_us > context.at_us:
        return []
    failures = user.failures + 1
    events: list[Message] = [pb.LoginFailed(user_id=command.user_id, failures=failures)]
    if failures >= FAILURES_MAX:
        until_us = context.at_us + LOCK_US
        events.append(pb.UserLocked(user_id=command.user_id, until_us=until_us))
    return events


def issue_token(command: pb.IssueTokenRequest, state: State, context: Context) -> list[Message]:
    """A token for who holds a live API key of an active user."""
    api_key = state.api_keys.get(command.api_key_id)
    if (
        api_key is None
        or api_key.secret_sha256 != command.secret_sha256
        or api_key.revoked
        or 0 < api_key.expires_at_us <= context.at_us
        or state.users[api_key.user_id].status != pb.USER_STATUS_ACTIVE
    ):
        raise Rejected(Code.UNAUTHENTICATED, KEY_REFUSED)
    return [pb.TokenIssued(api_key_id=command.api_key_id, user_id=api_key.user_id)]


def publish_signing_key(
    command: pb.PublishSigningKeyRequest, state: State, context: Context
) -> list[Message]:
    """A signing key's public part; an id means one key for good."""
    known = state.signing_keys.get(command.signing_key_id)
    if known == command.public_key:
        return []
    if known is not None:
        raise Rejected(
            Code.ALREADY_EXISTS,
            f"signing key {command.signing_key_id!r} was published with another public part",
            "signing_key_id",
        )
    return [
        pb.SigningKeyPublished(
            signing_key_id=command.signing_key_id,
            public_key=command.public_key,
            since_us=context.at_us,
        )
    ]
