"""What holds for security whatever is asked of it, in any order.

1. Any accepted history folds, and the same history folds to the same state.
2. Nobody can be given an action at a place where the giver has it not, as Cedar itself sees it.
3. The view that decides in every process and the state that makes the rules never disagree.
"""

import copy

from hypothesis import given, settings
from hypothesis import strategies as st

import loomos.security.state as states
from loom.decider import Code, Context, Position, Recorded, Rejected, Resource, fold
from loom.kit.decisions import Decisions, Policies
from loom.kit.view import ROLES, View
from loom.v1 import security_pb2 as pb
from loom.v1.common_pb2 import DataClassification
from loomos.security.decide import decide, resource
from loomos.security.evolve import evolve

POLICIES = Policies.load()
SHARD = "acme"
PROJECTS = ("acme.vision", "acme.speech")
USERS = tuple(f"usr-acme-{letter * 20}" for letter in "abcd")
ROOT = "usr-platform-aaaaaaaaaaaaaaaaaaaa"
START_US = 1_800_000_000_000_000

roles = st.sampled_from(sorted(ROLES))
scopes = st.sampled_from(("acme", *PROJECTS, "platform", "other"))
grants = st.builds(pb.RoleGrant, role=roles, scope_id=scopes)
users = st.sampled_from(USERS)
kinds = st.sampled_from(sorted(set(pb.QuotaKind.values()) - {0}))
classifications = st.sampled_from(sorted(set(DataClassification.values()) - {0}))
commands = st.one_of(
    st.builds(
        pb.CreateProjectRequest,
        project_id=st.sampled_from((*PROJECTS, "other.plan")),
        organisation_id=st.just(SHARD),
        classifications=st.lists(classifications, max_size=2, unique=True),
    ),
    st.builds(
        pb.CreateUserRequest,
        organisation_id=st.just(SHARD),
        user_name=st.sampled_from(("eve", "fay", "ann")),
        password_hash=st.sampled_from(("", "h")),
        roles=st.lists(grants, max_size=3),
    ),
    st.builds(pb.GrantRoleRequest, user_id=users, grant=grants),
    st.builds(pb.RevokeRoleRequest, user_id=users, grant=grants),
    st.builds(pb.SuspendUserRequest, user_id=users),
    st.builds(pb.ReinstateUserRequest, user_id=users),
    st.builds(pb.SetPasswordRequest, user_id=users, password_hash=st.just("h")),
    st.builds(pb.RecordLoginFailureRequest, user_id=users),
    st.builds(
        pb.LoginRequest,
        user_name=st.sampled_from(("a", "b")),
        user_id=users,
        verified_version=st.integers(0, 2),
    ),
    st.builds(
        pb.GrantDatasetAccessRequest,
        user_id=users,
        project_id=st.sampled_from(PROJECTS),
        classification=classifications,
    ),
    st.builds(pb.CreateApiKeyRequest, user_id=users, secret_sha256=st.just(b"d" * 32)),
    st.builds(
        pb.SetQuotaRequest,
        subject_id=st.sampled_from((SHARD, *PROJECTS, *USERS, "nobody")),
        organisation_id=st.just(SHARD),
        limits=st.lists(st.builds(pb.QuotaLimit, kind=kinds, limit=st.integers(0, 9)), max_size=3),
    ),
)
steps = st.lists(st.tuples(st.sampled_from((*USERS, ROOT)), commands), max_size=25)

FOUNDED = [
    pb.OrganisationCreated(organisation_id=SHARD),
    *(pb.ProjectCreated(project_id=name, organisation_id=SHARD) for name in PROJECTS),
    *(
        pb.UserCreated(user_id=user_id, organisation_id=SHARD, user_name=user_id[9])
        for user_id in USERS
    ),
    pb.RoleGranted(user_id=USERS[0], grant=pb.RoleGrant(role=pb.USER_ROLE_ADMIN, scope_id=SHARD)),
    pb.RoleGranted(
        user_id=USERS[1], grant=pb.RoleGrant(role=pb.USER_ROLE_ADMIN, scope_id=PROJECTS[0])
    ),
    pb.RoleGranted(
        user_id=USERS[2], grant=pb.RoleGrant(role=pb.USER_ROLE_ENGINEER, scope_id=SHARD)
    ),
]
PLATFORM = [
    pb.UserCreated(user_id=ROOT, organisation_id="platform"),
    pb.RoleGranted(user_id=ROOT, grant=pb.RoleGrant(role=pb.USER_ROLE_ADMIN, scope_id="platform")),
]


def recorded(event, offset: int) -> Recorded:
    position = Position("loomos.security", 0, offset)
    return Recorded(event, "", str(offset), "", 0, SHARD, position, 0, "", "", "", "")


def run(asked, authorised: bool) -> tuple[list, states.State, Decisions]:
    """What a history of commands leaves: its events, the live state, and the view."""
    state = fold(evolve, states.initial(SHARD), FOUNDED)
    decisions = Decisions(POLICIES, View())
    events = [*PLATFORM, *FOUNDED]
    for offset, event in enumerate(events):
        decisions.view.evolve(recorded(event, offset))
    for number, (actor, command) in enumerate(asked):
        context = Context(f"c-{number}", START_US + number, f"user:{actor}", SHARD)
        touched = resource(command, state)
        action = command.DESCRIPTOR.name.removesuffix("Request")
        if touched is None:
            continue
        if authorised and not decisions.may(f"user:{actor}", action, touched).allowed:
            continue
        before = copy.deepcopy(state)
        try:
            made = decide(command, state, context)
        except Rejected as refusal:
            assert refusal.code in vars(Code).values()
            assert refusal.message
            made = []
        assert state == before
        for event in made:
            if authorised and isinstance(event, pb.RoleGranted):
                check_grant(actor, event, decisions)
            evolve(state, event)
            decisions.view.evolve(recorded(event, len(events)))
            events.append(event)
    return events, state, decisions


def check_grant(actor: str, event: pb.RoleGranted, decisions: Decisions) -> None:
    """Every action that the role opens at its scope is open to the giver there."""
    scope_id = event.grant.scope_id
    kind = "project" if "." in scope_id else "organisation"
    group = "role:" + ROLES[event.grant.role].replace("serviceAccount", "service-account")
    for action, above in POLICIES.actions.items():
        if group in above:
            decision = decisions.may(f"user:{actor}", action, Resource(kind, scope_id))
            assert decision.allowed, (actor, action, scope_id)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_replay_is_live_and_any_prefix_folds(asked):
    events, live, _ = run(asked, authorised=False)
    own = events[len(PLATFORM) :]
    assert fold(evolve, states.initial(SHARD), own) == live
    for end in range(len(own)):
        fold(evolve, states.initial(SHARD), own[:end])


@settings(max_examples=60, deadline=None)
@given(steps)
def test_grants_never_exceed_the_grantor(asked):
    run(asked, authorised=True)


@settings(max_examples=100, deadline=None)
@given(steps)
def test_the_view_and_the_state_agree(asked):
    events, state, decisions = run(asked, authorised=False)
    view = decisions.view
    for user_id, user in state.users.items():
        account = view.users[user_id]
        assert account.active == (user.status == pb.USER_STATUS_ACTIVE)
        assert account.roles == {(ROLES[role], scope_id) for role, scope_id in user.roles}
    assert set(view.projects) == set(state.projects)
    assert set(view.api_keys) == set(state.api_keys)
    again = View()
    for offset, event in enumerate(events):
        again.evolve(recorded(event, offset))
        again.evolve(recorded(event, offset))
    assert again == view
