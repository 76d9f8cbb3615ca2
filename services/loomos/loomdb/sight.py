"""What a principal may see of the stream of all events, by the policies as they are now.

1. Who may read an organisation's audit trail sees what stands in it; who may only read events sees
   users' events that are neither confidential nor restricted. All else is left out silently.
2. It is asked again whenever security's view moves, so a right that is withdrawn ends at once;
   while that view is behind nothing is known, and nothing is shown.
"""

from typing import NamedTuple, Protocol

from loom.kit.authorize import Authorizer
from loom.kit.caller import Scope
from loomos.loomdb.ranks import CLASSES, OPEN, rank_of, users_rank
from loomos.loomdb.state import PLATFORM

__all__ = ["CLASSES", "Rights", "Seeing", "Sight", "rank_of", "users_rank"]

TRAIL, EVENTS = "ListEvents", "Subscribe"


class Sight(NamedTuple):
    """What of one organisation's events may be seen; of all of them where it is the platform."""

    organisation: str
    trail: Scope
    events: Scope

    @property
    def nothing(self) -> bool:
        """True where no event of anybody may be seen."""
        return not any(
            scope.all or scope.organisations or scope.projects
            for scope in (self.trail, self.events)
        )

    def asked(self, organisation: str) -> bool:
        """Whether events of this organisation are meant at all."""
        return self.organisation in (PLATFORM, organisation)

    def sees(self, organisation: str, project: str, users: bool, rank: int) -> bool:
        """Whether an event of this owner and classification may be seen."""
        if not self.asked(organisation):
            return False
        return within(self.trail, organisation, project) or (
            users and rank <= OPEN and within(self.events, organisation, project)
        )

    def covers(self, other: "Sight") -> bool:
        """Whether everything that the other sees is seen here too."""
        return covered(self.trail, other.trail) and (
            covered(self.events, other.events) or covered(self.trail, other.events)
        )


class Seeing(Protocol):
    """Whoever says what a reader may see at the moment."""

    def now(self) -> Sight | None:
        """What may be seen; None while that is not known."""
        ...


class Rights:
    """One principal's sight, kept as long as security's view stands still."""

    def __init__(self, authorizer: Authorizer, principal: str, organisation: str) -> None:
        self._authorizer = authorizer
        self._principal = principal
        self._organisation = organisation
        self._version = -1
        self._sight: Sight | None = None

    def now(self) -> Sight | None:
        """What the principal may see; None while that is not known."""
        if self._authorizer.stale():
            return None
        version = self._authorizer.view.version
        if self._sight is None or version != self._version:
            trail = self._authorizer.scope(self._principal, TRAIL)
            events = self._authorizer.scope(self._principal, EVENTS)
            if self._authorizer.stale():
                # It fell behind meanwhile, and what was answered is nobody's.
                return None
            self._sight, self._version = Sight(self._organisation, trail, events), version
        return self._sight


def within(scope: Scope, organisation: str, project: str) -> bool:
    """Whether a scope holds what belongs to this organisation and project."""
    return scope.all or organisation in scope.organisations or project in scope.projects


def covered(scope: Scope, other: Scope) -> bool:
    """Whether one scope holds all of another."""
    if scope.all:
        return True
    organisations = set(scope.organisations)
    return (
        not other.all
        and organisations.issuperset(other.organisations)
        and all(
            project in scope.projects or project.partition(".")[0] in organisations
            for project in other.projects
        )
    )
