"""What the rules of one organisation must know.

1. A user's name belongs to one user of its organisation for good.
2. A role holds at its scope and below: platform > organisation > project.
3. A secret is known by its SHA-256, a password only by its version.

User:        (none) --UserCreated--> ACTIVE --UserSuspended--> SUSPENDED --UserReinstated--> ACTIVE
             an ACTIVE one is locked while `locked_until_us` is ahead: --UserLocked-->
API key:     (none) --ApiKeyCreated--> live --ApiKeyRevoked--> revoked; ends by itself in time
Join token:  (none) --JoinTokenCreated--> open --NodeJoined--> used; ends by itself in time
Enrolment:   open --EnrolmentCompleted--> closed for good
"""

from dataclasses import dataclass, field

from loom.v1.common_pb2 import DataClassification
from loom.v1.security_pb2 import QuotaLimit, UserRole, UserStatus

__all__ = [
    "PLATFORM",
    "ApiKey",
    "Grant",
    "JoinToken",
    "State",
    "User",
    "enclosing",
    "includes",
    "initial",
]

PLATFORM = "platform"

Grant = tuple[int, str]
"""A role and the scope at which it is held."""

INCLUDED: dict[int, frozenset[int]] = {
    UserRole.USER_ROLE_ADMIN: frozenset(UserRole.values()) - {UserRole.USER_ROLE_UNSPECIFIED},
    UserRole.USER_ROLE_ENGINEER: frozenset(UserRole.values())
    - {UserRole.USER_ROLE_UNSPECIFIED, UserRole.USER_ROLE_ADMIN},
    UserRole.USER_ROLE_RESEARCHER: frozenset(
        {
            UserRole.USER_ROLE_RESEARCHER,
            UserRole.USER_ROLE_VIEWER,
            UserRole.USER_ROLE_SERVICE_ACCOUNT,
        }
    ),
    UserRole.USER_ROLE_VIEWER: frozenset({UserRole.USER_ROLE_VIEWER}),
    UserRole.USER_ROLE_SERVICE_ACCOUNT: frozenset({UserRole.USER_ROLE_SERVICE_ACCOUNT}),
}
"""Which roles each role contains; a test holds this against the policies."""


@dataclass(slots=True)
class User:
    """A person or program of the organisation."""

    name: str
    """What the user's name is looked up by; the name itself where it was never sealed."""
    status: UserStatus = UserStatus.USER_STATUS_ACTIVE
    roles: set[Grant] = field(default_factory=set)
    datasets: set[tuple[str, DataClassification]] = field(default_factory=set)
    password_version: int = 0
    """Counts passwords; 0 while there is none."""
    failures: int = 0
    """Failed logins since the last that fitted."""
    locked_until_us: int = 0


@dataclass(slots=True)
class ApiKey:
    """A key that speaks for a user."""

    user_id: str
    secret_sha256: bytes
    expires_at_us: int
    revoked: bool = False


@dataclass(slots=True)
class JoinToken:
    """A one-time permission for one node."""

    cluster_id: str
    secret_sha256: bytes
    expires_at_us: int
    node_id: str = ""
    """The node that used it up."""


@dataclass(slots=True)
class State:
    """One organisation."""

    shard: str
    """The organisation; the shell sets it."""
    founded: bool = False
    enrolled: bool = False
    users: dict[str, User] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    """User name to user id."""
    projects: dict[str, tuple[DataClassification, ...]] = field(default_factory=dict)
    quotas: dict[str, tuple[QuotaLimit, ...]] = field(default_factory=dict)
    api_keys: dict[str, ApiKey] = field(default_factory=dict)
    join_tokens: dict[str, JoinToken] = field(default_factory=dict)
    nodes: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Node id to cluster and node name."""
    node_names: set[tuple[str, str]] = field(default_factory=set)
    signing_keys: dict[str, bytes] = field(default_factory=dict)

    @property
    def exists(self) -> bool:
        """True once the organisation is founded; the administrators' own is built in."""
        return self.founded or self.shard == PLATFORM


def initial(shard: str) -> State:
    """An organisation nobody founded yet."""
    return State(shard)


def includes(held: int, wanted: int) -> bool:
    """True where a role contains another, itself included."""
    return wanted in INCLUDED.get(held, frozenset())


def enclosing(scope_id: str) -> tuple[str, ...]:
    """The scopes at which a role would hold at this one, narrowest first."""
    if scope_id == PLATFORM:
        return (PLATFORM,)
    organisation, dot, _ = scope_id.partition(".")
    return (scope_id, organisation, PLATFORM) if dot else (scope_id, PLATFORM)
