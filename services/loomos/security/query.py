"""Answers security's queries from its own tables; foreign ids are answered like unknown ones.

1. A caller sees what its scope opens, and always its own account.
2. Lists are ordered by id; the cursor is the last id of the page before.
"""

from typing import Any, LiteralString

import psycopg

from loom.decider import Code, Rejected, Resource
from loom.kit.caller import Caller
from loom.v1 import security_pb2 as pb
from loom.v1.common_pb2 import DataClassification

__all__ = [
    "explain_access",
    "get_project",
    "get_quota",
    "get_user",
    "list_api_keys",
    "list_projects",
    "list_quotas",
    "list_users",
    "who_am_i",
]

PAGE = 50
OWN = "(%(all)s OR organisation_id = ANY(%(organisations)s) OR user_id = %(own)s)"
QUOTA_VISIBLE = """(%(all)s OR organisation_id = ANY(%(organisations)s)
    OR subject_id = ANY(%(projects)s) OR subject_id = %(own)s)"""
USER = f"""
SELECT users.*,
    ARRAY(SELECT ARRAY[role::text, scope_id] FROM role_grants
        WHERE role_grants.user_id = users.user_id ORDER BY scope_id, role) AS roles,
    ARRAY(SELECT ARRAY[project_id, classification::text] FROM dataset_access
        WHERE dataset_access.user_id = users.user_id ORDER BY 1) AS datasets
FROM users WHERE {OWN}
"""  # noqa: S608 - a constant
KEYS = f"SELECT * FROM api_keys WHERE {OWN}"  # noqa: S608 - a constant
PROJECTS = "SELECT * FROM projects WHERE (%(all)s OR project_id = ANY(%(projects)s))"
QUOTAS = f"SELECT * FROM quotas WHERE {QUOTA_VISIBLE}"  # noqa: S608 - a constant


def visible(caller: Caller, action: str) -> dict[str, Any]:
    """The parameters by which rows are filtered."""
    return caller.scope(action)._asdict() | {"own": caller.principal.removeprefix("user:")}


async def get_user(
    request: pb.GetUserRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.User:
    """One user."""
    rows = await one(
        db,
        USER,
        "user_id",
        request.user_id,
        visible(caller, "GetUser"),
        f"user {request.user_id!r}",
    )
    return user(rows)


async def list_users(
    request: pb.ListUsersRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.ListUsersResponse:
    """Users, by id."""
    seen = visible(caller, "ListUsers")
    rows, cursor = await page(db, USER, "user_id", "organisation_id", request, seen)
    return pb.ListUsersResponse(users=[user(row) for row in rows], next_cursor=cursor)


async def list_api_keys(
    request: pb.ListApiKeysRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.ListApiKeysResponse:
    """API keys, by id."""
    seen = visible(caller, "ListApiKeys")
    rows, cursor = await page(db, KEYS, "api_key_id", "user_id", request, seen)
    keys = [
        pb.ApiKey(**{name: row[name] for name in pb.ApiKey.DESCRIPTOR.fields_by_name})
        for row in rows
    ]
    return pb.ListApiKeysResponse(api_keys=keys, next_cursor=cursor)


async def get_project(
    request: pb.GetProjectRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.Project:
    """One project."""
    named = f"project {request.project_id!r}"
    seen = visible(caller, "GetProject")
    return project(await one(db, PROJECTS, "project_id", request.project_id, seen, named))


async def list_projects(
    request: pb.ListProjectsRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.ListProjectsResponse:
    """Projects, by id."""
    seen = visible(caller, "ListProjects")
    rows, cursor = await page(db, PROJECTS, "project_id", "organisation_id", request, seen)
    return pb.ListProjectsResponse(projects=[project(row) for row in rows], next_cursor=cursor)


async def get_quota(
    request: pb.GetQuotaRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.Quota:
    """One quota."""
    named = f"a quota of {request.subject_id!r}"
    seen = visible(caller, "GetQuota")
    return quota(await one(db, QUOTAS, "subject_id", request.subject_id, seen, named))


async def list_quotas(
    request: pb.ListQuotasRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.ListQuotasResponse:
    """Quotas, by subject."""
    seen = visible(caller, "ListQuotas")
    rows, cursor = await page(db, QUOTAS, "subject_id", "organisation_id", request, seen)
    return pb.ListQuotasResponse(quotas=[quota(row) for row in rows], next_cursor=cursor)


async def who_am_i(
    request: pb.WhoAmIRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.Identity:
    """The caller, as proved, and the roles it holds."""
    cursor = await db.execute(
        "SELECT role, scope_id FROM role_grants WHERE user_id = %s ORDER BY scope_id, role",
        (caller.principal.removeprefix("user:"),),
    )
    rows: list[Any] = await cursor.fetchall()
    return pb.Identity(
        principal=caller.principal,
        organisation_id=caller.organisation_id,
        roles=[pb.RoleGrant(role=row["role"], scope_id=row["scope_id"]) for row in rows],
    )


async def explain_access(
    request: pb.ExplainAccessRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.AccessExplanation:
    """What would be decided; about others only for who administers them."""
    resource = Resource(request.resource_kind, request.resource_id)
    principal = request.principal or caller.principal
    if principal != caller.principal:
        kind, _, name = principal.partition(":")
        about = Resource("user", name) if kind == "user" else Resource("platform", "platform")
        if not caller.may("SuspendUser", about).allowed:
            raise unknown(f"principal {principal!r}", "principal")
    elif not caller.may("See", resource).allowed:
        raise unknown(f"{resource.kind} {resource.id!r}", "resource_id")
    decision = caller.judge.may(principal, request.action, resource)
    return pb.AccessExplanation(
        allowed=decision.allowed,
        reasons=decision.reasons,
        policy_hash=decision.policy_hash,
        security_position=decision.security_position,
    )


async def one(
    db: psycopg.AsyncConnection,
    select: LiteralString,
    column: LiteralString,
    wanted: str,
    seen: dict[str, Any],
    named: str,
) -> dict[str, Any]:
    """The row of this id; Rejected as NOT_FOUND where there is none for the caller."""
    cursor = await db.execute(f"{select} AND {column} = %(wanted)s", seen | {"wanted": wanted})
    row = await cursor.fetchone()
    if row is None:
        raise unknown(named, column)
    return dict(row)


async def page(
    db: psycopg.AsyncConnection,
    select: LiteralString,
    column: LiteralString,
    narrow: LiteralString,
    request: Any,
    seen: dict[str, Any],
) -> tuple[list[dict[str, Any]], str]:
    """One page of rows and the cursor of the next; `narrow` names the request's filter."""
    limit = request.limit or PAGE
    cursor = await db.execute(
        f"""{select} AND (%(narrow)s = '' OR {narrow} = %(narrow)s) AND {column} > %(cursor)s
        ORDER BY {column} LIMIT %(limit)s""",
        seen | {"narrow": getattr(request, narrow), "cursor": request.cursor, "limit": limit + 1},
    )
    rows = [dict(row) for row in await cursor.fetchall()]
    return rows[:limit], rows[limit - 1][column] if len(rows) > limit else ""


def user(row: dict[str, Any]) -> pb.User:
    """A user as people see one."""
    return pb.User(
        user_id=row["user_id"],
        organisation_id=row["organisation_id"],
        user_name=row["user_name"],
        status=row["status"],
        status_reason=row["status_reason"],
        auth_provider=row["auth_provider"],
        roles=[
            pb.RoleGrant(role=pb.UserRole.Name(int(role)), scope_id=scope)
            for role, scope in row["roles"]
        ],
        locked_until_us=row["locked_until_us"],
        last_login_at_us=row["last_login_at_us"],
        created_at_us=row["created_at_us"],
        dataset_access=[
            pb.DatasetAccess(
                project_id=project_id, classification=DataClassification.Name(int(classification))
            )
            for project_id, classification in row["datasets"]
        ],
    )


def project(row: dict[str, Any]) -> pb.Project:
    """A project as people see one."""
    return pb.Project(**row)


def quota(row: dict[str, Any]) -> pb.Quota:
    """A quota as people see one."""
    found = pb.Quota.FromString(bytes(row["limits"]))
    found.subject_id = row["subject_id"]
    found.organisation_id = row["organisation_id"]
    found.set_at_us = row["set_at_us"]
    return found


def unknown(named: str, field: str) -> Rejected:
    """The one answer for what is not there and what the caller may not see."""
    return Rejected(Code.NOT_FOUND, f"{named} is not known", field)
