"""Turns events into the read model's rows: models, versions, deployments, revisions."""

from loom.decider import Recorded, Statement
from loom.v1 import deployment_pb2 as pb

__all__ = ["project"]

MODEL = """
INSERT INTO models (model_id, project_id, model_name, latest_version, created_at_us)
VALUES (%s, %s, %s, 0, %s)
"""
VERSION = """
INSERT INTO model_versions
    (model_id, version, project_id, job_id, stage, registered, created_at_us)
VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
LATEST = "UPDATE models SET latest_version = %s WHERE model_id = %s"
STAGE = "UPDATE model_versions SET stage = %s WHERE model_id = %s AND version = %s"
REQUESTED = """
INSERT INTO deployments (deployment_id, project_id, model_id, model_name, environment, status,
    revision, version, serving_revision, serving_version, endpoint, reason, policy_version,
    updated_at_us)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 0, 0, '', %s, %s, %s)
ON CONFLICT (deployment_id) DO UPDATE SET
    status = CASE WHEN deployments.serving_revision = 0 THEN excluded.status ELSE %s END,
    revision = excluded.revision, version = excluded.version, reason = excluded.reason,
    policy_version = excluded.policy_version, updated_at_us = excluded.updated_at_us
"""
REVISION = """
INSERT INTO revisions
    (deployment_id, revision, project_id, version, rollback_to, requested_at_us)
VALUES (%s, %s, %s, %s, %s, %s)
"""
STARTED = """
UPDATE deployments SET updated_at_us = %s,
    status = CASE WHEN status = %s THEN %s ELSE status END
WHERE deployment_id = %s
"""
ACTIVATED = """
UPDATE deployments SET status = %s, serving_revision = %s, serving_version = version,
    endpoint = %s, reason = '', updated_at_us = %s
WHERE deployment_id = %s
"""
STATUS = """
UPDATE deployments SET status = %s, reason = %s, updated_at_us = %s WHERE deployment_id = %s
"""
NOTHING_SERVED = """
UPDATE deployments SET status = %s, reason = %s, updated_at_us = %s, serving_revision = 0,
    serving_version = 0, endpoint = ''
WHERE deployment_id = %s
"""
REVISION_ACTIVATED = """
UPDATE revisions SET activated_at_us = %s WHERE deployment_id = %s AND revision = %s
"""
REVISION_FAILED = """
UPDATE revisions SET failed_at_us = %s WHERE deployment_id = %s AND revision = %s
"""


def project(record: Recorded) -> list[Statement]:
    """The statements that bring the tables from before the event to after it."""
    event, at_us = record.event, record.at_us
    match event:
        case pb.ModelRegistered():
            return [
                Statement(MODEL, (event.model_id, event.project_id, event.model_name, at_us)),
            ]
        case pb.ModelVersionRegistered():
            return version(event, at_us)
        case pb.ModelStageReached():
            return [Statement(STAGE, (event.stage, event.model_id, event.version))]
        case pb.DeploymentRequested():
            return requested(event, at_us)
        case pb.DeploymentStarted():
            pending, deploying = pb.DEPLOYMENT_STATUS_PENDING, pb.DEPLOYMENT_STATUS_DEPLOYING
            return [Statement(STARTED, (at_us, pending, deploying, event.deployment_id))]
        case pb.DeploymentActivated():
            endpoint = event.endpoint.SerializeToString(deterministic=True)
            deployment_id, revision = event.deployment_id, event.revision
            active = pb.DEPLOYMENT_STATUS_ACTIVE
            return [
                Statement(ACTIVATED, (active, revision, endpoint, at_us, deployment_id)),
                Statement(REVISION_ACTIVATED, (at_us, deployment_id, revision)),
            ]
        case pb.DeploymentFailed():
            status, statement = pb.DEPLOYMENT_STATUS_FAILED, NOTHING_SERVED
            if event.serving_revision:
                status, statement = pb.DEPLOYMENT_STATUS_DEGRADED, STATUS
            return [
                Statement(statement, (status, event.reason, at_us, event.deployment_id)),
                Statement(REVISION_FAILED, (at_us, event.deployment_id, event.revision)),
            ]
        case pb.DeploymentStopped():
            inactive = pb.DEPLOYMENT_STATUS_INACTIVE
            return [Statement(STATUS, (inactive, "", at_us, event.deployment_id))]
        case pb.DeploymentTerminated():
            terminated = pb.DEPLOYMENT_STATUS_TERMINATED
            return [Statement(NOTHING_SERVED, (terminated, "", at_us, event.deployment_id))]
        case _:
            return []


def version(event: pb.ModelVersionRegistered, at_us: int) -> list[Statement]:
    """The version's row, and the model's newest number."""
    row = (
        event.model_id,
        event.version,
        event.project_id,
        event.lineage.job_id,
        pb.MODEL_STAGE_DEVELOPMENT,
        event.SerializeToString(deterministic=True),
        at_us,
    )
    return [Statement(VERSION, row), Statement(LATEST, (event.version, event.model_id))]


def requested(event: pb.DeploymentRequested, at_us: int) -> list[Statement]:
    """The deployment's newest revision."""
    changing = (
        pb.DEPLOYMENT_STATUS_ROLLING_BACK
        if event.rollback_to_revision
        else pb.DEPLOYMENT_STATUS_UPDATING
    )
    deployment = (
        event.deployment_id,
        event.project_id,
        event.model_id,
        event.model_name,
        event.environment,
        pb.DEPLOYMENT_STATUS_PENDING,
        event.revision,
        event.version,
        event.reason,
        event.policy_version,
        at_us,
        changing,
    )
    revision = (
        event.deployment_id,
        event.revision,
        event.project_id,
        event.version,
        event.rollback_to_revision,
        at_us,
    )
    return [Statement(REQUESTED, deployment), Statement(REVISION, revision)]
