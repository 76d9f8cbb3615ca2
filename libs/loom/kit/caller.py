"""Who makes a call and what may be asked about them; `loom.kit.authorize` proves and decides."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

from loom.decider import Resource
from loom.kit.view import View

__all__ = ["ANONYMOUS", "Caller", "Decision", "Judge", "Scope"]

ANONYMOUS = "anonymous"


class Decision(NamedTuple):
    """An answer and its grounds."""

    allowed: bool
    reasons: tuple[str, ...]
    """Ids of the deciding policies, or a word that says why there is none, and what is missing."""
    policy_hash: str = ""
    security_position: str = ""
    """How much of security's log was known: `partition@offset`, joined by commas."""


class Scope(NamedTuple):
    """Whose rows a caller may see."""

    all: bool
    organisations: list[str]
    projects: list[str]


class Judge(Protocol):
    """What a caller asks about itself and, dry, about others."""

    def may(self, principal: str, action: str, resource: Resource) -> Decision:
        """Whether the principal may."""
        ...

    def scope(self, principal: str, action: str) -> Scope:
        """Whose rows the principal may see."""
        ...

    @property
    def view(self) -> View:
        """What is known of security's log."""
        ...


@dataclass(slots=True)
class Caller:
    """Who makes one call, as proved, and what was decided about it last."""

    principal: str
    """`user:<id>`, `service:<name>`, `node:<id>`, or empty for nobody."""
    organisation_id: str
    kind: str
    """user, service, node or anonymous."""
    judge: Judge = field(repr=False, compare=False)
    decided: Decision | None = field(default=None, repr=False, compare=False)

    def may(self, action: str, resource: Resource) -> Decision:
        """Whether the caller may do this action, an RPC's name, to this resource."""
        self.decided = self.judge.may(self.principal, action, resource)
        return self.decided

    def context(self) -> tuple[tuple[str, str], ...]:
        """The last decision as attributes of the events that it let through."""
        return () if self.decided is None else context_of(self.decided)

    def scope(self, action: str) -> Scope:
        """Whose rows the caller may see with this action."""
        return self.judge.scope(self.principal, action)


@lru_cache(maxsize=4096)
def context_of(decision: Decision) -> tuple[tuple[str, str], ...]:
    """A decision as attributes of an event, sorted by name."""
    return (
        ("policies", ",".join(decision.reasons if decision.allowed else decision.reasons[:1])),
        ("policyhash", decision.policy_hash),
        ("securityposition", decision.security_position),
    )
