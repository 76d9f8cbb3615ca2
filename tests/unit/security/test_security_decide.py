"""The rules of security, one by one."""

import pytest
from given import NOW_US, Given, given

import loomos.security
from loom.decider import Code, shard_of
from loom.v1 import security_pb2 as pb
from loom.v1.common_pb2 import DataClassification as Data

ANN = "usr-acme-aaaaaaaaaaaaaaaaaaaa"
BOB = "usr-acme-bbbbbbbbbbbbbbbbbbbb"
BOT = "usr-acme-cccccccccccccccccccc"
ROOT = "usr-platform-dddddddddddddddddddd"
KEY = "key-acme-aaaaaaaaaaaaaaaaaaaa"
JOIN = "join-platform-aaaaaaaaaaaaaaaaaaaa"
DIGEST = b"d" * 32
MINUTE_US = 60_000_000


def grant(role: str, scope_id: str) -> pb.RoleGrant:
    return pb.RoleGrant(role=f"USER_ROLE_{role}", scope_id=scope_id)


def user(user_id: str, name: str, *roles: pb.RoleGrant) -> list:
    organisation = shard_of(user_id)
    return [
        pb.UserCreated(user_id=user_id, organisation_id=organisation, user_name=name),
        pb.PasswordSet(user_id=user_id, password_hash="h", password_version=1),
        *(pb.RoleGranted(user_id=user_id, grant=role) for role in roles),
    ]


def acme(*more) -> Given:
    """Organisation acme: ann administers it, bob researches in a project, bot is a program."""
    return given(
        loomos.security,
        pb.OrganisationCreated(organisation_id="acme"),
        pb.ProjectCreated(
            project_id="acme.vision",
            organisation_id="acme",
            classifications=[
                Data.DATA_CLASSIFICATION_INTERNAL,
                Data.DATA_CLASSIFICATION_RESTRICTED,
            ],
        ),
        *user(ANN, "ann", grant("ADMIN", "acme")),
        *user(BOB, "bob", grant("RESEARCHER", "acme.vision")),
        *user(BOT, "bot", grant("SERVICE_ACCOUNT", "acme.vision")),
        *more,
        shard="acme",
    )


def platform(*more) -> Given:
    return given(
        loomos.security, *user(ROOT, "root", grant("ADMIN", "platform")), *more, shard="platform"
    )


def enrolment(**more) -> pb.CreateFirstAdminRequest:
    fields = {"password_hash": "h", "token_sha256": DIGEST} | more
    return pb.CreateFirstAdminRequest(organisation_id="platform", user_name="root", **fields)


def test_the_first_admin_enrols_once():
    empty = given(loomos.security, shard="platform")
    enrolled = empty.when(enrolment(), actor="service:gateway").accepted()
    enrolled.when(enrolment(), command_id="c-2").refused(Code.FAILED_PRECONDITION)
    (found,) = enrolled.state.users.values()
    assert found.roles == {(pb.USER_ROLE_ADMIN, "platform")}


def test_enrolment_without_what_the_door_proves_is_refused():
    empty = given(loomos.security, shard="platform")
    empty.when(enrolment(token_sha256=b"")).refused(Code.UNAUTHENTICATED, "token")


def test_an_organisation_is_founded_once():
    command = pb.CreateOrganisationRequest(organisation_id="acme", display_name="Acme")
    founded = (
        given(loomos.security, shard="acme")
        .when(command)
        .then(pb.OrganisationCreated(organisation_id="acme", display_name="Acme"))
    )
    founded.when(command, command_id="c-2").refused(Code.ALREADY_EXISTS, "organisation_id")
    builtin = pb.CreateOrganisationRequest(organisation_id="platform")
    platform().when(builtin).refused(Code.ALREADY_EXISTS)


def test_a_project_belongs_to_its_organisation():
    command = pb.CreateProjectRequest(project_id="acme.speech", organisation_id="acme")
    acme().when(command).then(
        pb.ProjectCreated(
            project_id="acme.speech",
            organisation_id="acme",
            display_name="speech",
            classifications=[Data.DATA_CLASSIFICATION_PUBLIC, Data.DATA_CLASSIFICATION_INTERNAL],
        )
    )
    command.project_id = "other.speech"
    acme().when(command).refused(Code.INVALID_ARGUMENT, "project_id")
    command.project_id = "acme.vision"
    acme().when(command).refused(Code.ALREADY_EXISTS, "project_id")
    command.project_id = "acme.speech"
    given(loomos.security, shard="acme").when(command).refused(Code.NOT_FOUND)


def test_a_user_name_is_taken_once():
    command = pb.CreateUserRequest(
        organisation_id="acme", user_name="eve", roles=[grant("VIEWER", "acme")], password_hash="h"
    )
    outcome = acme().when(command, actor=f"user:{ANN}")
    assert shard_of(outcome.one(pb.UserCreated).user_id) == "acme"
    outcome.accepted().when(command, actor=f"user:{ANN}", command_id="c-2").refused(
        Code.ALREADY_EXISTS, "user_name"
    )


@pytest.mark.parametrize(
    ("actor", "role", "scope_id", "code"),
    [
        (ANN, "ADMIN", "acme", ""),
        (ANN, "ADMIN", "acme.vision", ""),
        (ROOT, "ADMIN", "acme", ""),
        (BOB, "VIEWER", "acme.vision", ""),
        (BOB, "VIEWER", "acme", Code.PERMISSION_DENIED),
        (BOB, "ENGINEER", "acme.vision", Code.PERMISSION_DENIED),
        (BOT, "VIEWER", "acme.vision", Code.PERMISSION_DENIED),
        (ANN, "ADMIN", "platform", Code.NOT_FOUND),
        (ANN, "VIEWER", "other", Code.NOT_FOUND),
        (ANN, "VIEWER", "acme.unknown", Code.NOT_FOUND),
        (ROOT, "ADMIN", "platform", Code.NOT_FOUND),
    ],
)
def test_a_grant_never_exceeds_the_grantor(actor, role, scope_id, code):
    command = pb.GrantRoleRequest(user_id=BOT, grant=grant(role, scope_id))
    outcome = acme().when(command, actor=f"user:{actor}")
    if code:
        outcome.refused(code)
    else:
        outcome.then(pb.RoleGranted(user_id=BOT, grant=command.grant))


def test_services_grant_nothing():
    command = pb.GrantRoleRequest(user_id=BOT, grant=grant("VIEWER", "acme"))
    acme().when(command, actor="service:scheduler").refused(Code.PERMISSION_DENIED)


def test_a_suspended_admin_grants_nothing():
    command = pb.GrantRoleRequest(user_id=BOT, grant=grant("VIEWER", "acme"))
    acme(pb.UserSuspended(user_id=ANN)).when(command, actor=f"user:{ANN}").refused(
        Code.PERMISSION_DENIED
    )


def test_a_role_is_revoked_once_and_only_by_who_holds_it():
    command = pb.RevokeRoleRequest(user_id=ANN, grant=grant("ADMIN", "acme"))
    acme().when(command, actor=f"user:{BOB}").refused(Code.PERMISSION_DENIED)
    revoked = acme().when(command, actor=f"user:{ROOT}").accepted()
    revoked.when(command, actor=f"user:{ROOT}", command_id="c-2").then()


def test_the_platform_keeps_an_administrator():
    admin = grant("ADMIN", "platform")
    other = "usr-platform-eeeeeeeeeeeeeeeeeeee"
    alone, both = platform(), platform(*user(other, "two", admin))
    revoke = pb.RevokeRoleRequest(user_id=ROOT, grant=admin)
    suspend = pb.SuspendUserRequest(user_id=ROOT)
    for command in (revoke, suspend):
        alone.when(command, actor=f"user:{ROOT}").refused(Code.FAILED_PRECONDITION)
        both.when(command, actor=f"user:{ROOT}").accepted()
    idle = platform(*user(other, "two", admin), pb.UserSuspended(user_id=other))
    idle.when(revoke, actor=f"user:{ROOT}").refused(Code.FAILED_PRECONDITION)


def test_ones_own_password_needs_the_one_so_far():
    command = pb.SetPasswordRequest(user_id=BOB, password_hash="new")
    acme().when(command, actor=f"user:{BOB}").refused(Code.PERMISSION_DENIED, "current_password")
    command.verified_version = 1
    acme().when(command, actor=f"user:{BOB}").then(
        pb.PasswordSet(user_id=BOB, password_hash="new", password_version=2)
    )


def test_an_admin_sets_a_password_without_the_one_so_far():
    command = pb.SetPasswordRequest(user_id=BOB, password_hash="new")
    acme().when(command, actor=f"user:{ANN}").accepted()


def login(version: int = 1, user_id: str = BOB, name: str = "bob") -> pb.LoginRequest:
    return pb.LoginRequest(
        organisation_id="acme", user_name=name, user_id=user_id, verified_version=version
    )


def test_a_login_needs_the_password_of_now():
    acme().when(login()).then(pb.LoginSucceeded(user_id=BOB))
    refusals = [
        acme().when(login(version=0)),
        acme().when(login(version=2)),
        acme().when(login(user_id="")),
        acme().when(login(user_id=ANN)),
        acme(pb.UserSuspended(user_id=BOB)).when(login()),
        acme(pb.UserLocked(user_id=BOB, until_us=NOW_US + 1)).when(login()),
    ]
    told = {outcome.refused(Code.UNAUTHENTICATED).message for outcome in refusals}
    assert len(told) == 1, "the refusals tell apart why"


def test_five_failures_lock_and_time_opens():
    failure = pb.RecordLoginFailureRequest(user_id=BOB)
    step = acme()
    for number in range(1, 5):
        step = step.when(failure, command_id=f"f-{number}").then(
            pb.LoginFailed(user_id=BOB, failures=number)
        )
    until_us = NOW_US + 15 * MINUTE_US
    locked = step.when(failure).then(
        pb.LoginFailed(user_id=BOB, failures=5), pb.UserLocked(user_id=BOB, until_us=until_us)
    )
    locked.when(failure, command_id="f-6").then()
    locked.when(login(), at_us=until_us - 1).refused(Code.UNAUTHENTICATED)
    locked.when(login(), at_us=until_us).then(pb.LoginSucceeded(user_id=BOB))
    opened = locked.when(pb.ReinstateUserRequest(user_id=BOB)).accepted()
    opened.when(login()).accepted()


def test_a_login_that_fits_starts_the_count_again():
    step = acme(pb.LoginFailed(user_id=BOB, failures=4)).when(login()).accepted()
    step.when(pb.RecordLoginFailureRequest(user_id=BOB)).then(
        pb.LoginFailed(user_id=BOB, failures=1)
    )


def key_request(user_id: str, **more) -> pb.CreateApiKeyRequest:
    return pb.CreateApiKeyRequest(user_id=user_id, name="ci", secret_sha256=DIGEST, **more)


def test_people_make_their_own_keys():
    acme().when(key_request(BOB), actor=f"user:{BOB}").accepted()
    acme().when(key_request(BOT), actor=f"user:{ANN}").accepted()
    acme().when(key_request(BOB), actor=f"user:{ANN}").refused(Code.PERMISSION_DENIED, "user_id")
    acme().when(key_request(BOB, expires_at_us=NOW_US), actor=f"user:{BOB}").refused(
        Code.INVALID_ARGUMENT, "expires_at_us"
    )


def with_key(*more, expires_at_us: int = 0) -> Given:
    created = pb.ApiKeyCreated(
        api_key_id=KEY, user_id=BOB, secret_sha256=DIGEST, expires_at_us=expires_at_us
    )
    return acme(created, *more)


def test_a_token_needs_a_live_key_of_an_active_user():
    command = pb.IssueTokenRequest(api_key_id=KEY, secret_sha256=DIGEST)
    with_key().when(command).then(pb.TokenIssued(api_key_id=KEY, user_id=BOB))
    wrong = pb.IssueTokenRequest(api_key_id=KEY, secret_sha256=b"x" * 32)
    refusals = [
        acme().when(command),
        with_key().when(wrong),
        with_key(pb.ApiKeyRevoked(api_key_id=KEY)).when(command),
        with_key(expires_at_us=NOW_US).when(command),
        with_key(pb.UserSuspended(user_id=BOB)).when(command),
    ]
    told = {outcome.refused(Code.UNAUTHENTICATED).message for outcome in refusals}
    assert len(told) == 1, "the refusals tell apart why"


def test_a_signing_key_id_means_one_key():
    command = pb.PublishSigningKeyRequest(
        signing_key_id="sign-platform-aaaaaaaaaaaaaaaaaaaa",
        organisation_id="platform",
        public_key=DIGEST,
    )
    published = platform().when(command).accepted()
    published.when(command, command_id="c-2").then()
    command.public_key = b"x" * 32
    published.when(command, command_id="c-3").refused(Code.ALREADY_EXISTS)


def join(secret: bytes = DIGEST, name: str = "one") -> pb.JoinNodeRequest:
    return pb.JoinNodeRequest(join_token_id=JOIN, secret_sha256=secret, node_name=name)


def with_token(*more) -> Given:
    created = pb.JoinTokenCreated(
        join_token_id=JOIN, cluster_id="local", secret_sha256=DIGEST, expires_at_us=NOW_US + 1
    )
    return platform(created, *more)


def test_a_join_token_admits_one_node():
    outcome = with_token().when(join())
    joined = outcome.one(pb.NodeJoined)
    assert shard_of(joined.node_id) == "local"
    outcome.accepted().when(join(name="two"), command_id="c-2").refused(Code.UNAUTHENTICATED)
    with_token().when(join(b"x" * 32)).refused(Code.UNAUTHENTICATED)
    with_token().when(join(), at_us=NOW_US + 1).refused(Code.UNAUTHENTICATED)
    platform().when(join()).refused(Code.UNAUTHENTICATED)


def test_a_node_name_is_taken_once_and_the_token_stays_open():
    other = pb.NodeJoined(
        join_token_id=JOIN.replace("aaaa", "bbbb"),
        node_id="node-local-aaaaaaaaaaaaaaaaaaaa",
        node_name="one",
        cluster_id="local",
    )
    earlier = pb.JoinTokenCreated(join_token_id=other.join_token_id, cluster_id="local")
    step = with_token(earlier, other)
    step.when(join()).refused(Code.ALREADY_EXISTS, "node_name")
    step.when(join(name="two")).accepted()


def test_a_join_token_ends_within_a_day():
    command = pb.CreateJoinTokenRequest(
        organisation_id="platform", cluster_id="local", secret_sha256=DIGEST
    )
    created = platform().when(command).one(pb.JoinTokenCreated)
    assert created.expires_at_us == NOW_US + 15 * MINUTE_US
    for end_us in (NOW_US, NOW_US + 24 * 60 * MINUTE_US + 1):
        command.expires_at_us = end_us
        platform().when(command).refused(Code.INVALID_ARGUMENT, "expires_at_us")


def quota(subject_id: str, *limits: pb.QuotaLimit) -> pb.SetQuotaRequest:
    return pb.SetQuotaRequest(subject_id=subject_id, organisation_id="acme", limits=limits)


def test_a_quota_is_normalised_and_ordered():
    jobs = pb.QuotaLimit(kind=pb.QUOTA_KIND_CONCURRENT_JOBS, limit=3)
    cost = pb.QuotaLimit(
        kind=pb.QUOTA_KIND_COST_PER_MONTH,
        limit=5,
        type=pb.QUOTA_TYPE_SOFT,
        enforcement=pb.QUOTA_ENFORCEMENT_WARNING,
    )
    told = pb.QuotaLimit(
        kind=jobs.kind, limit=3, type=pb.QUOTA_TYPE_HARD, enforcement=pb.QUOTA_ENFORCEMENT_STRICT
    )
    step = (
        acme()
        .when(quota(BOB, cost, jobs))
        .then(pb.QuotaSet(subject_id=BOB, organisation_id="acme", limits=[told, cost]))
    )
    step.when(quota(BOB, jobs, cost), command_id="c-2").then()
    step.when(quota(BOB), command_id="c-3").then(
        pb.QuotaSet(subject_id=BOB, organisation_id="acme")
    )
    acme().when(quota(BOB, jobs, jobs)).refused(Code.INVALID_ARGUMENT, "limits")
    acme().when(quota("acme.unknown", jobs)).refused(Code.NOT_FOUND, "subject_id")
    acme().when(quota(ROOT, jobs)).refused(Code.NOT_FOUND, "subject_id")


def test_restricted_data_needs_a_project_that_may_use_it():
    command = pb.GrantDatasetAccessRequest(
        user_id=BOB,
        project_id="acme.vision",
        classification=Data.DATA_CLASSIFICATION_RESTRICTED,
    )
    granted = acme().when(command).accepted()
    granted.when(command, command_id="c-2").then()
    command.classification = Data.DATA_CLASSIFICATION_CONFIDENTIAL
    acme().when(command).refused(Code.FAILED_PRECONDITION, "classification")
    command.project_id = "acme.unknown"
    acme().when(command).refused(Code.NOT_FOUND, "project_id")
