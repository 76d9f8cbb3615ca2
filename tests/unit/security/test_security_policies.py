"""The policies on a small world: who may do what, and that the table of actions is whole."""

import itertools
import json

import cedarpy
import pytest

from loom.catalogue import contracts
from loom.decider import Position, Recorded, Resource
from loom.kit.caller import context_of
from loom.kit.decisions import Decisions, Policies, policy_folder, touched
from loom.kit.view import View
from loom.v1 import security_pb2 as pb
from loomos.security.state import includes

POLICIES = Policies.load()
ROOT = "usr-platform-aaaaaaaaaaaaaaaaaaaa"
ANN = "usr-acme-aaaaaaaaaaaaaaaaaaaa"
BOB = "usr-acme-bbbbbbbbbbbbbbbbbbbb"
EVE = "usr-evil-aaaaaaaaaaaaaaaaaaaa"
NODE = "node-local-aaaaaaaaaaaaaaaaaaaa"
OTHER_NODE = "node-local-bbbbbbbbbbbbbbbbbbbb"
PLATFORM = Resource("platform", "platform")
ACME = Resource("organisation", "acme")
VISION = Resource("project", "acme.vision")
SPEECH = Resource("project", "acme.speech")


def recorded(event, offset: int, partition: int = 0) -> Recorded:
    position = Position("loomos.security", partition, offset)
    return Recorded(event, "", str(offset), "", 0, "", position, 0, "", "", "", "")


def granted(user_id: str, role: str, scope_id: str) -> pb.RoleGranted:
    grant = pb.RoleGrant(role=f"USER_ROLE_{role}", scope_id=scope_id)
    return pb.RoleGranted(user_id=user_id, grant=grant)


def joined(node_id: str) -> pb.NodeJoined:
    return pb.NodeJoined(join_token_id=node_id, node_id=node_id, cluster_id="local")


WORLD = (
    pb.OrganisationCreated(organisation_id="acme"),
    pb.OrganisationCreated(organisation_id="evil"),
    pb.ProjectCreated(project_id="acme.vision", organisation_id="acme"),
    pb.ProjectCreated(project_id="acme.speech", organisation_id="acme"),
    pb.ProjectCreated(project_id="evil.plan", organisation_id="evil"),
    pb.UserCreated(user_id=ROOT, organisation_id="platform"),
    pb.UserCreated(user_id=ANN, organisation_id="acme"),
    pb.UserCreated(user_id=BOB, organisation_id="acme"),
    pb.UserCreated(user_id=EVE, organisation_id="evil"),
    granted(ROOT, "ADMIN", "platform"),
    granted(ANN, "ADMIN", "acme"),
    granted(BOB, "RESEARCHER", "acme.vision"),
    granted(EVE, "ADMIN", "evil"),
    joined(NODE),
    joined(OTHER_NODE),
)


def world(*more) -> Decisions:
    view = View()
    for offset, event in enumerate((*WORLD, *more)):
        view.evolve(recorded(event, offset))
    return Decisions(POLICIES, view)


@pytest.mark.parametrize(
    ("principal", "action", "resource", "allowed"),
    [
        (f"user:{ROOT}", "CreateOrganisation", PLATFORM, True),
        (f"user:{ROOT}", "SubmitJob", VISION, True),
        (f"user:{ROOT}", "DrainNode", Resource("node", NODE), True),
        (f"user:{ANN}", "CreateOrganisation", PLATFORM, False),
        (f"user:{ANN}", "CreateUser", ACME, True),
        (f"user:{ANN}", "SubmitJob", SPEECH, True),
        (f"user:{ANN}", "DrainNode", Resource("node", NODE), False),
        (f"user:{ANN}", "CreateJoinToken", PLATFORM, False),
        (f"user:{ANN}", "SuspendUser", Resource("user", BOB), True),
        (f"user:{BOB}", "SubmitJob", VISION, True),
        (f"user:{BOB}", "SubmitJob", SPEECH, False),
        (f"user:{BOB}", "SubmitJob", ACME, False),
        (f"user:{BOB}", "GrantRole", VISION, False),
        (f"user:{BOB}", "DeployModel", VISION, False),
        (f"user:{BOB}", "CreateApiKey", Resource("user", BOB), True),
        (f"user:{BOB}", "SetPassword", Resource("user", ANN), False),
        (f"user:{ROOT}", "PublishPrice", ACME, True),
        (f"user:{ANN}", "PublishPrice", ACME, False),
        (f"user:{EVE}", "GetJob", VISION, False),
        (f"user:{EVE}", "See", VISION, False),
        (f"user:{EVE}", "SuspendUser", Resource("user", ANN), False),
        (f"node:{NODE}", "RegisterNode", Resource("node", NODE), True),
        (f"node:{NODE}", "RegisterNode", Resource("node", OTHER_NODE), False),
        (f"node:{NODE}", "SubmitJob", VISION, False),
        ("service:scheduler", "GrantAllocations", PLATFORM, True),
        ("service:scheduler", "PublishSigningKey", PLATFORM, False),
        ("service:gateway", "Login", PLATFORM, True),
        ("service:gateway", "SubmitJob", VISION, False),
        ("service:unheard-of", "Tick", PLATFORM, False),
        ("", "Login", PLATFORM, False),
        ("user:usr-acme-zzzzzzzzzzzzzzzzzzzz", "SubmitJob", VISION, False),
        (f"user:{ROOT}", "NoSuchAction", PLATFORM, False),
        (f"user:{ROOT}", "SubmitJob", Resource("project", "acme.new"), True),
        (f"user:{EVE}", "SubmitJob", Resource("project", "acme.new"), False),
        (f"user:{BOB}", "SubmitJob", Resource("project", "acme.new"), False),
        (f"user:{ROOT}", "SubmitJob", Resource("project", "acme"), False),
        (f"user:{ROOT}", "SubmitJob", Resource("project", "acme.vision\n"), False),
        (f"user:{ROOT}", "SubmitJob", Resource("project", "acme.vision.x"), False),
        (f"user:{ROOT}", "SuspendUser", Resource("user", "acme"), False),
        (f"user:{ROOT}", "SubmitJob", Resource("galaxy", "x"), False),
    ],
)
def test_who_may_do_what(principal, action, resource, allowed):
    decision = world().may(principal, action, resource)
    assert decision.allowed is allowed, decision
    assert decision.reasons
    assert len(decision.policy_hash) == 64
    assert decision.security_position == f"0@{len(WORLD) - 1}"


def test_a_change_of_rights_is_felt_at_once_and_logins_change_nothing():
    decisions = world()
    assert decisions.may(f"user:{BOB}", "SubmitJob", VISION).allowed
    version = decisions.view.version
    decisions.view.evolve(recorded(pb.LoginSucceeded(user_id=BOB), 100))
    assert decisions.view.version == version
    decisions.view.evolve(recorded(pb.UserSuspended(user_id=BOB), 101))
    denied = decisions.may(f"user:{BOB}", "SubmitJob", VISION)
    assert denied == denied._replace(allowed=False, reasons=("suspended-stay-out",))


def test_crossing_tenants_is_forbidden_even_with_a_role_there():
    decision = world(granted(EVE, "ADMIN", "acme")).may(f"user:{EVE}", "SubmitJob", VISION)
    assert decision.reasons == ("tenants-apart",)
    assert not decision.allowed


@pytest.mark.parametrize(
    ("action", "resource", "wanted"),
    [
        ("DeployModel", VISION, "admin or engineer of acme.vision or acme"),
        ("GetStory", ACME, "admin of acme"),
    ],
)
def test_a_denial_says_which_roles_it_takes_and_which_are_held(action, resource, wanted):
    reasons = world().may(f"user:{BOB}", action, resource).reasons
    held = "held: researcher of acme.vision"
    assert reasons == ("no_policy_allows", f"it takes {wanted}", held)


def test_a_denial_that_no_role_would_change_says_so_and_names_nobody_elses_roles():
    denied = world().may(f"user:{ANN}", "PublishPrice", ACME)
    assert denied.reasons == ("no_policy_allows", "no role opens it", "held: admin of acme")
    bare = world(pb.UserCreated(user_id=f"{BOB[:-1]}c", organisation_id="acme"))
    nobody = bare.may(f"user:{BOB[:-1]}c", "GetJob", VISION).reasons
    assert nobody[2] == "held: no role"
    assert "service_account" in nobody[1]
    strange = bare.may(f"user:{EVE}", "GetJob", VISION)
    assert strange.reasons == ("tenants-apart",)
    assert dict(context_of(denied))["policies"] == "no_policy_allows"


def test_an_engine_that_fails_denies(monkeypatch):
    def fail(*given):
        raise RuntimeError("engine")

    monkeypatch.setattr(cedarpy, "is_authorized", fail)
    decision = world().may(f"user:{ROOT}", "SubmitJob", VISION)
    assert (decision.allowed, decision.reasons) == (False, ("engine_error",))


def test_an_error_inside_a_policy_denies():
    schema = (policy_folder() / "loomos.cedarschema").read_text()
    texts = [
        "permit (principal, action, resource);",
        "forbid (principal, action, resource) when { principal.nothing };",
    ]
    decisions = Decisions(Policies(schema, texts), world().view)
    decision = decisions.may(f"user:{ROOT}", "SubmitJob", VISION)
    assert (decision.allowed, decision.reasons) == (False, ("engine_error",))


def test_a_scope_agrees_with_every_single_decision():
    decisions = world(granted(BOB, "VIEWER", "acme.speech"))
    view = decisions.view
    principals = [f"user:{name}" for name in view.users] + ["service:scheduler", f"node:{NODE}"]
    for principal, action in itertools.product(principals, ("GetJob", "ListUsers", "SubmitJob")):
        scope = decisions.scope(principal, action)
        for project in view.projects:
            allowed = decisions.may(principal, action, Resource("project", project)).allowed
            assert allowed == (scope.all or project in scope.projects), (principal, project)
        for organisation in view.organisations - {"platform"}:
            resource = Resource("organisation", organisation)
            allowed = decisions.may(principal, action, resource).allowed
            assert allowed == (scope.all or organisation in scope.organisations)


def test_the_policies_are_valid():
    schema = (policy_folder() / "loomos.cedarschema").read_text()
    texts = [path.read_text() for path in sorted(policy_folder().glob("*.cedar"))]
    result = cedarpy.validate_policies("\n".join(texts), schema)
    assert result.validation_passed, [str(error) for error in result.errors]


def test_every_rpc_stands_in_the_table_of_actions():
    rpcs = {
        method.name
        for contract in contracts()
        for service in contract.services_by_name.values()
        for method in service.methods
    }
    missing = sorted(rpcs - set(POLICIES.actions))
    assert not missing, f"name them in policies/loomos.cedarschema: {missing}"


def test_the_roles_of_the_rules_are_those_of_the_policies():
    names = {
        pb.USER_ROLE_ADMIN: "role:admin",
        pb.USER_ROLE_ENGINEER: "role:engineer",
        pb.USER_ROLE_RESEARCHER: "role:researcher",
        pb.USER_ROLE_VIEWER: "role:viewer",
        pb.USER_ROLE_SERVICE_ACCOUNT: "role:service-account",
    }
    opened = {
        role: {name for name, above in POLICIES.actions.items() if group in above}
        for role, group in names.items()
    }
    for held, wanted in itertools.product(names, names):
        if includes(held, wanted):
            assert opened[held] >= opened[wanted], (names[held], names[wanted])
    administered = {name for name, above in POLICIES.actions.items() if "security:admin" in above}
    for role in names:
        if role != pb.USER_ROLE_ADMIN:
            assert not opened[role] & administered, names[role]


def test_entities_are_as_the_schema_says():
    schema = (policy_folder() / "loomos.cedarschema").read_text()
    kinds = [PLATFORM, ACME, VISION, Resource("user", ANN), Resource("node", NODE)]
    entities = [touched(resource) for resource in kinds]
    cedarpy.Entities.from_json_str(json.dumps(entities), schema)
