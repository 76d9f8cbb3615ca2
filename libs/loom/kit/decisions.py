"""Decides what a principal may do, by Cedar, on a view of security's log.

1. Nothing is allowed that no policy allows; `forbid` wins, tenants stand apart by one.
2. An engine that fails and an error inside a policy deny.
3. A decision is asked of Cedar once per version of the view; then it is one dictionary look-up.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import cedarpy
import structlog

import loom
from loom.decider import Resource, shard_of
from loom.kit.caller import Decision, Scope
from loom.kit.view import PLATFORM, ROLES, View
from loom.v1 import security_pb2 as pb

__all__ = ["Decisions", "Policies", "policy_folder", "touched"]

CACHED_MAX = 200_000
ORGANISATION = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
PROJECT = re.compile(rf"{ORGANISATION.pattern}[.]{ORGANISATION.pattern}")
CEDAR_KIND = {
    "platform": "Platform",
    "organisation": "Organisation",
    "project": "Project",
    "user": "User",
    "node": "Node",
}
ROLE_NAMES = {name: pb.UserRole.Name(role)[10:].lower() for role, name in ROLES.items()}
PRINCIPAL_KIND = {"user": "User", "service": "Service", "node": "Node"}


class Policies:
    """The parsed policies and the table of actions; immutable."""

    def __init__(self, schema: str, texts: list[str]) -> None:
        source = "\n".join(texts)
        self.hash = hashlib.sha256("\0".join((schema, source)).encode()).hexdigest()
        self.set = cedarpy.PolicySet.from_str(source)
        entities = json.loads(str(cedarpy.Entities.from_json_str("[]", schema)))
        parents = {
            entity["uid"]["id"]: [parent["id"] for parent in entity["parents"]]
            for entity in entities
        }
        self.actions = {name: sorted(above(name, parents)) for name in sorted(parents)}
        """Each action and every permission and role that it stands in."""

    @classmethod
    def load(cls, folder: Path | None = None) -> "Policies":
        """The policies of a folder; by default those of the distribution."""
        folder = folder or policy_folder()
        texts = [path.read_text() for path in sorted(folder.glob("*.cedar"))]
        return cls((folder / "loomos.cedarschema").read_text(), texts)

    def ask(
        self, request: dict[str, Any], entities: list[dict[str, Any]]
    ) -> tuple[bool, list[str]]:
        """Cedar's answer and the ids of the deciding policies; raises on any error inside one."""
        handle = cedarpy.Entities.from_json_str(json.dumps(entities))
        result = cedarpy.is_authorized(request, self.set, handle)
        found = result.diagnostics
        if found.errors:
            raise ValueError("; ".join(str(error) for error in found.errors))
        names = found.id_annotations_by_reason
        return result.allowed, sorted(names.get(reason, reason) for reason in found.reasons)


def above(name: str, parents: dict[str, list[str]]) -> set[str]:
    """Every group an action stands in, directly or through another."""
    found: set[str] = set()
    waiting = list(parents.get(name, ()))
    while waiting:
        group = waiting.pop()
        if group not in found:
            found.add(group)
            waiting.extend(parents.get(group, ()))
    return found


def policy_folder() -> Path:
    """Beside the sources in a checkout, inside `loomos` once installed."""
    root = Path(loom.__file__).resolve().parent.parent
    installed = root / "loomos" / "policies"
    return installed if installed.is_dir() else root.parent / "policies"


class Decisions:
    """Decides on a view; forgets what it decided when the view's version moves."""

    def __init__(self, policies: Policies, view: View) -> None:
        self.policies = policies
        self.view = view
        self._version = -1
        self._known: dict[tuple[str, str, Resource], Decision] = {}

    def may(self, principal: str, action: str, resource: Resource) -> Decision:
        """Whether the principal may do the action to the resource."""
        if self._version != self.view.version or len(self._known) > CACHED_MAX:
            self._known = {}
            self._version = self.view.version
        key = (principal, action, resource)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._decide(principal, action, resource)
        return known

    def scope(self, principal: str, action: str) -> Scope:
        """Whose rows the principal may see with this action; agrees with `may` on each."""
        view = self.view
        if self.may(principal, action, Resource(PLATFORM, PLATFORM)).allowed:
            return Scope(True, sorted(view.organisations), sorted(view.projects))
        kind, _, name = principal.partition(":")
        if kind == "node" and self._sees(principal, action, "node", name):
            return Scope(False, [PLATFORM], [])
        account = view.users.get(name) if kind == "user" else None
        if account is None:
            return Scope(False, [], [])
        own = account.organisation_id
        inside = sorted(name for name, owner in view.projects.items() if owner == own)
        if self._sees(principal, action, "organisation", own):
            return Scope(False, [own], inside)
        # What a role opens above, it opens below: only projects with a grant of their own are left.
        granted = {scope for _, scope in account.roles}
        projects = [
            name
            for name in inside
            if name in granted and self._sees(principal, action, "project", name)
        ]
        return Scope(False, [], projects)

    def position(self) -> str:
        """How much of security's log the view has folded."""
        return ",".join(
            f"{partition}@{at.offset}" for partition, at in sorted(self.view.reached.items())
        )

    def _sees(self, principal: str, action: str, kind: str, name: str) -> bool:
        return self.may(principal, action, Resource(kind, name)).allowed

    def _decide(self, principal: str, action: str, resource: Resource) -> Decision:
        try:
            allowed, reasons = self._ask(principal, action, resource)
        except Exception as error:  # noqa: BLE001 - whatever fails inside the engine denies
            structlog.get_logger().error(
                "policy engine failed", action=action, resource=resource, error=str(error)
            )
            allowed, reasons = False, ["engine_error"]
        return Decision(allowed, tuple(reasons), self.policies.hash, self.position())

    def _ask(self, principal: str, action: str, resource: Resource) -> tuple[bool, list[str]]:
        subject = self._subject(principal)
        if subject is None:
            return False, ["unknown_principal"]
        if action not in self.policies.actions:
            return False, ["unknown_action"]
        target = touched(resource)
        if target is None:
            return False, ["unknown_resource"]
        verb = {"type": "Action", "id": action}
        groups = [{"type": "Action", "id": group} for group in self.policies.actions[action]]
        entities = [target, {"uid": verb, "attrs": {}, "parents": groups}]
        if subject["uid"] != target["uid"]:
            entities.append(subject)
        else:
            entities[0] = subject
        request = {
            "principal": subject["uid"],
            "action": verb,
            "resource": target["uid"],
            "context": {},
        }
        allowed, reasons = self.policies.ask(request, entities)
        return allowed, reasons or ["no_policy_allows", *self._missing(principal, action, target)]

    def _missing(self, principal: str, action: str, target: dict[str, Any]) -> list[str]:
        """The roles that would have allowed it, and those that the user has: his own only."""
        account = self.view.users.get(principal.removeprefix("user:"))
        if account is None:
            return []
        groups = self.policies.actions[action]
        opening = [one[5:].replace("-", "_") for one in groups if one.startswith("role:")]
        holders = target["attrs"]["holders"]["admin"]
        scopes = [one["__entity"]["id"].partition("@")[2] for one in holders]
        where = " or ".join(scopes[:-1] or scopes)
        wanted = f"it takes {' or '.join(opening)} of {where}" if opening else "no role opens it"
        held = [f"{ROLE_NAMES[role]} of {scope}" for role, scope in sorted(account.roles)]
        return [wanted, f"held: {' and '.join(held) or 'no role'}"]

    def _subject(self, principal: str) -> dict[str, Any] | None:
        """The principal as an entity, its roles as parents; None for who is not known."""
        kind, _, name = principal.partition(":")
        if kind == "service" and name:
            return {"uid": {"type": "Service", "id": name}, "attrs": {}, "parents": []}
        if kind not in PRINCIPAL_KIND:
            return None
        known = self.view.users if kind == "user" else self.view.nodes
        entity = touched(Resource(kind, name))
        if entity is None or name not in known:
            return None
        if kind == "user":
            account = self.view.users[name]
            entity["attrs"]["active"] = account.active
            entity["parents"] = [
                {"type": "Role", "id": f"{role}@{scope}"} for role, scope in sorted(account.roles)
            ]
        return entity


def touched(resource: Resource) -> dict[str, Any] | None:
    """The resource as an entity: its organisation, and who holds which role over it.

    Its id alone says where it belongs: whether it is there is for its owner to say, who knows it
    before this view does.
    """
    kind, name = resource
    match kind:
        case "platform":
            organisation, scopes = PLATFORM, [PLATFORM]
        case "organisation" if ORGANISATION.fullmatch(name):
            organisation, scopes = name, [name, PLATFORM]
        case "project" if PROJECT.fullmatch(name):
            organisation = name.partition(".")[0]
            scopes = [name, organisation, PLATFORM]
        case "user" if shard_of(name):
            organisation = shard_of(name)
            scopes = [organisation, PLATFORM]
        case "node" if shard_of(name):
            organisation, scopes = PLATFORM, [PLATFORM]
        case _:
            return None
    holders = {
        role: [{"__entity": {"type": "Role", "id": f"{role}@{scope}"}} for scope in scopes]
        for role in ROLES.values()
    }
    attributes: dict[str, Any] = {
        "organisation": {"__entity": {"type": "Organisation", "id": organisation}},
        "holders": holders,
    }
    if kind == "user":
        # What counts is whether the one who acts is active; `_subject` writes over it.
        attributes["active"] = True
    uid = {"type": CEDAR_KIND[kind], "id": name}
    return {"uid": uid, "attrs": attributes, "parents": []}
