"""What every process knows of security's log: who exists, what they hold, which keys sign.

1. Folded from security's events alone; pure, so that the same log gives the same view anywhere.
2. `version` counts the changes on which a decision may rest; logins and tokens do not count.
3. Revocation is ordered by the log: a token whose record stands before its user's last password,
   suspension or role change of status is dead, whatever any clock says.
"""

from dataclasses import dataclass, field

from loom.decider import Position, Recorded
from loom.v1 import security_pb2 as pb

__all__ = ["Account", "ApiKey", "Grant", "SigningKey", "View"]

PLATFORM = "platform"

ROLES = {
    pb.USER_ROLE_ADMIN: "admin",
    pb.USER_ROLE_ENGINEER: "engineer",
    pb.USER_ROLE_RESEARCHER: "researcher",
    pb.USER_ROLE_VIEWER: "viewer",
    pb.USER_ROLE_SERVICE_ACCOUNT: "serviceAccount",
}

Grant = tuple[str, str]
"""A role's name in the policies, and its scope."""


@dataclass(slots=True)
class Account:
    """A user as decisions see one."""

    organisation_id: str
    active: bool = True
    roles: set[Grant] = field(default_factory=set)
    tokens_from: tuple[int, int] = (0, 0)
    """Incarnation and offset before which issued tokens are dead."""


@dataclass(slots=True)
class ApiKey:
    """A key from which tokens are issued."""

    user_id: str
    secret_sha256: bytes
    expires_at_us: int
    revoked: bool = False


@dataclass(slots=True)
class SigningKey:
    """The public part of a key that signs tokens."""

    public_key: bytes
    since_us: int
    replaced_at_us: int = 0
    """When its successor began to sign; 0 while it is the newest."""


@dataclass(slots=True)
class View:
    """Everything that authentication and authorisation rest on."""

    version: int = 0
    users: dict[str, Account] = field(default_factory=dict)
    organisations: set[str] = field(default_factory=lambda: {PLATFORM})
    projects: dict[str, str] = field(default_factory=dict)
    """Project id to organisation id."""
    nodes: dict[str, str] = field(default_factory=dict)
    """Node id to cluster id."""
    joined: dict[str, str] = field(default_factory=dict)
    """Join token id to the node id that it made."""
    api_keys: dict[str, ApiKey] = field(default_factory=dict)
    signing_keys: dict[str, SigningKey] = field(default_factory=dict)
    reached: dict[int, Position] = field(default_factory=dict)
    """By partition, the last record that was folded."""

    def evolve(self, record: Recorded) -> None:
        """Fold one record of security's log; one that was folded before changes nothing."""
        last = self.reached.get(record.position.partition)
        if last is not None and order(record.position) <= order(last):
            return
        self.reached[record.position.partition] = record.position
        if self._changed(record):
            self.version += 1

    def has_reached(self, position: Position) -> bool:
        """True once the record at this position, or a later one of its partition, is folded."""
        last = self.reached.get(position.partition)
        return last is not None and order(last) >= order(position)

    def _changed(self, record: Recorded) -> bool:
        """Apply the event; True where a decision may now come out differently."""
        match record.event:
            case pb.UserCreated() as event:
                self.users[event.user_id] = Account(event.organisation_id)
            case pb.RoleGranted() as event:
                role = ROLES[event.grant.role]
                self.users[event.user_id].roles.add((role, event.grant.scope_id))
            case pb.RoleRevoked() as event:
                role = ROLES[event.grant.role]
                self.users[event.user_id].roles.discard((role, event.grant.scope_id))
            case pb.UserSuspended() as event:
                self.users[event.user_id].active = False
                self.users[event.user_id].tokens_from = order(record.position)
            case pb.UserReinstated() as event:
                self.users[event.user_id].active = True
            case pb.PasswordSet() as event:
                self.users[event.user_id].tokens_from = order(record.position)
            case pb.OrganisationCreated() as event:
                self.organisations.add(event.organisation_id)
            case pb.ProjectCreated() as event:
                self.projects[event.project_id] = event.organisation_id
            case pb.NodeJoined() as event:
                self.nodes[event.node_id] = event.cluster_id
                self.joined[event.join_token_id] = event.node_id
            case pb.ApiKeyCreated() as event:
                self.api_keys[event.api_key_id] = ApiKey(
                    event.user_id, event.secret_sha256, event.expires_at_us
                )
            case pb.ApiKeyRevoked() as event:
                self.api_keys[event.api_key_id].revoked = True
            case pb.SigningKeyPublished() as event:
                self._publish(event)
            case _:
                return False
        return True

    def _publish(self, event: pb.SigningKeyPublished) -> None:
        for key in self.signing_keys.values():
            if not key.replaced_at_us:
                key.replaced_at_us = event.since_us
        self.signing_keys[event.signing_key_id] = SigningKey(event.public_key, event.since_us)


def order(position: Position) -> tuple[int, int]:
    """What positions of one partition are compared by."""
    return position.incarnation, position.offset
