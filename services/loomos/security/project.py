"""Turns events into the read model's rows: organisations, projects, users, quotas, keys."""

from loom.decider import Recorded, Statement
from loom.v1 import security_pb2 as pb

__all__ = ["project"]

ORGANISATION = "INSERT INTO organisations VALUES (%s, %s, %s)"
PROJECT = "INSERT INTO projects VALUES (%s, %s, %s, %s, %s)"
USER = """
INSERT INTO users (user_id, organisation_id, user_name, user_name_index, status, auth_provider,
    created_at_us)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
HASH = """
INSERT INTO passwords VALUES (%s, %s, %s)
ON CONFLICT (user_id) DO UPDATE SET
    password_hash = excluded.password_hash, password_version = excluded.password_version
"""
STATUS = """
UPDATE users SET status = %s, status_reason = %s, locked_until_us = 0 WHERE user_id = %s
"""
LOCKED = "UPDATE users SET locked_until_us = %s WHERE user_id = %s"
LOGGED_IN = "UPDATE users SET last_login_at_us = %s WHERE user_id = %s"
GRANTED = "INSERT INTO role_grants VALUES (%s, %s, %s)"
REVOKED = "DELETE FROM role_grants WHERE user_id = %s AND role = %s AND scope_id = %s"
OPENED = "INSERT INTO dataset_access VALUES (%s, %s, %s)"
CLOSED = """
DELETE FROM dataset_access WHERE user_id = %s AND project_id = %s AND classification = %s
"""
QUOTA = """
INSERT INTO quotas VALUES (%s, %s, %s, %s)
ON CONFLICT (subject_id) DO UPDATE SET
    limits = excluded.limits, set_at_us = excluded.set_at_us
"""
QUOTA_GONE = "DELETE FROM quotas WHERE subject_id = %s"
KEY = """
INSERT INTO api_keys (api_key_id, user_id, organisation_id, name, expires_at_us, created_at_us)
VALUES (%s, %s, %s, %s, %s, %s)
"""
KEY_REVOKED = "UPDATE api_keys SET revoked_at_us = %s WHERE api_key_id = %s"
KEY_USED = "UPDATE api_keys SET last_used_at_us = %s WHERE api_key_id = %s"


def project(record: Recorded) -> list[Statement]:
    """The statements that bring the tables from before the event to after it."""
    event, at_us = record.event, record.at_us
    match event:
        case pb.OrganisationCreated():
            row = (event.organisation_id, event.display_name, at_us)
            return [Statement(ORGANISATION, row)]
        case pb.ProjectCreated():
            return [Statement(PROJECT, project_row(event, at_us))]
        case pb.UserCreated():
            return [Statement(USER, user_row(event, at_us))]
        case pb.PasswordSet():
            row = (event.user_id, event.password_hash, event.password_version)
            return [Statement(HASH, row)]
        case pb.UserSuspended():
            row = (pb.USER_STATUS_SUSPENDED, event.reason, event.user_id)
            return [Statement(STATUS, row)]
        case pb.UserReinstated():
            return [Statement(STATUS, (pb.USER_STATUS_ACTIVE, "", event.user_id))]
        case pb.UserLocked():
            return [Statement(LOCKED, (event.until_us, event.user_id))]
        case pb.LoginSucceeded():
            return [Statement(LOGGED_IN, (at_us, event.user_id))]
        case pb.RoleGranted():
            row = (event.user_id, event.grant.role, event.grant.scope_id)
            return [Statement(GRANTED, row)]
        case pb.RoleRevoked():
            row = (event.user_id, event.grant.role, event.grant.scope_id)
            return [Statement(REVOKED, row)]
        case pb.DatasetAccessGranted():
            row = (event.user_id, event.project_id, event.classification)
            return [Statement(OPENED, row)]
        case pb.DatasetAccessRevoked():
            row = (event.user_id, event.project_id, event.classification)
            return [Statement(CLOSED, row)]
        case pb.QuotaSet() if not event.limits:
            return [Statement(QUOTA_GONE, (event.subject_id,))]
        case pb.QuotaSet():
            return [Statement(QUOTA, quota_row(event, at_us))]
        case pb.ApiKeyCreated():
            return [Statement(KEY, key_row(event, record.shard, at_us))]
        case pb.ApiKeyRevoked():
            return [Statement(KEY_REVOKED, (at_us, event.api_key_id))]
        case pb.TokenIssued():
            return [Statement(KEY_USED, (at_us, event.api_key_id))]
        case _:
            return []


def project_row(event: pb.ProjectCreated, at_us: int) -> tuple[object, ...]:
    """A project as its table has it."""
    return (
        event.project_id,
        event.organisation_id,
        event.display_name,
        list(event.classifications),
        at_us,
    )


def user_row(event: pb.UserCreated, at_us: int) -> tuple[object, ...]:
    """A user as its table has it."""
    return (
        event.user_id,
        event.organisation_id,
        event.user_name,
        event.user_name_index or event.user_name,
        pb.USER_STATUS_ACTIVE,
        event.auth_provider,
        at_us,
    )


def quota_row(event: pb.QuotaSet, at_us: int) -> tuple[object, ...]:
    """A quota as its table has it; the limits stand as the message that a query answers."""
    limits = pb.Quota(limits=event.limits).SerializeToString(deterministic=True)
    return (event.subject_id, event.organisation_id, limits, at_us)


def key_row(event: pb.ApiKeyCreated, organisation_id: str, at_us: int) -> tuple[object, ...]:
    """An API key as its table has it."""
    return (
        event.api_key_id,
        event.user_id,
        organisation_id,
        event.name,
        event.expires_at_us,
        at_us,
    )
