"""Answers deployment's queries from its own tables; foreign ids are answered like unknown ones."""

from typing import Any

import psycopg

from loom.decider import Code, Rejected
from loom.kit.caller import Caller
from loom.v1 import deployment_pb2 as pb

__all__ = ["get_deployment", "get_model", "get_model_version", "list_deployments", "list_models"]

PAGE = 50
VISIBLE = "(%(all)s OR project_id = ANY(%(projects)s))"


async def get_model(
    request: pb.GetModelRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.Model:
    """One model."""
    cursor = await db.execute(
        f"SELECT * FROM models WHERE model_id = %(id)s AND {VISIBLE}",  # noqa: S608
        {"id": request.model_id, **caller.scope("GetModel")._asdict()},
    )
    row: Any = await cursor.fetchone()
    if row is None:
        raise Rejected(Code.NOT_FOUND, f"no model {request.model_id!r}", "model_id")
    return pb.Model(**row)


async def list_models(
    request: pb.ListModelsRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.ListModelsResponse:
    """The models of the caller's projects."""
    cursor = await db.execute(
        f"""
        SELECT * FROM models
        WHERE (%(project)s = '' OR project_id = %(project)s) AND {VISIBLE}
        ORDER BY project_id, model_name LIMIT %(limit)s OFFSET %(offset)s
        """,  # noqa: S608
        {
            "project": request.project_id,
            "limit": request.limit or PAGE,
            "offset": request.offset,
            **caller.scope("ListModels")._asdict(),
        },
    )
    rows: list[Any] = await cursor.fetchall()
    return pb.ListModelsResponse(models=[pb.Model(**row) for row in rows])


async def get_model_version(
    request: pb.GetModelVersionRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.ModelVersion:
    """One version with lineage, metrics and artifact."""
    cursor = await db.execute(
        f"""
        SELECT * FROM model_versions
        WHERE model_id = %(id)s AND version = %(version)s AND {VISIBLE}
        """,  # noqa: S608
        {
            "id": request.model_id,
            "version": request.version,
            **caller.scope("GetModelVersion")._asdict(),
        },
    )
    row: Any = await cursor.fetchone()
    if row is None:
        raise Rejected(
            Code.NOT_FOUND,
            f"no version {request.version} of a model {request.model_id!r}",
            "version",
        )
    registered = pb.ModelVersionRegistered.FromString(row["registered"])
    return pb.ModelVersion(
        model_id=registered.model_id,
        project_id=registered.project_id,
        model_name=registered.model_name,
        version=registered.version,
        stage=row["stage"],
        plugin=registered.plugin,
        lineage=registered.lineage,
        metrics=registered.metrics,
        artifact=registered.artifact,
        created_at_us=row["created_at_us"],
    )


async def get_deployment(
    request: pb.GetDeploymentRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.ModelDeployment:
    """One deployment."""
    cursor = await db.execute(
        f"SELECT * FROM deployments WHERE deployment_id = %(id)s AND {VISIBLE}",  # noqa: S608
        {"id": request.deployment_id, **caller.scope("GetDeployment")._asdict()},
    )
    row = await cursor.fetchone()
    if row is None:
        raise Rejected(Code.NOT_FOUND, f"no deployment {request.deployment_id!r}", "deployment_id")
    return deployment(row)


async def list_deployments(
    request: pb.ListDeploymentsRequest, caller: Caller, db: psycopg.AsyncConnection
) -> pb.ListDeploymentsResponse:
    """The deployments of the caller's projects."""
    cursor = await db.execute(
        f"""
        SELECT * FROM deployments
        WHERE (%(project)s = '' OR project_id = %(project)s)
          AND (%(model)s = '' OR model_id = %(model)s)
          AND (%(status)s = 0 OR status = %(status)s) AND {VISIBLE}
        ORDER BY updated_at_us DESC, deployment_id LIMIT %(limit)s OFFSET %(offset)s
        """,  # noqa: S608
        {
            "project": request.project_id,
            "model": request.model_id,
            "status": request.status,
            "limit": request.limit or PAGE,
            "offset": request.offset,
            **caller.scope("ListDeployments")._asdict(),
        },
    )
    rows = await cursor.fetchall()
    return pb.ListDeploymentsResponse(deployments=[deployment(row) for row in rows])


def deployment(row: Any) -> pb.ModelDeployment:
    """A row of `deployments`."""
    return pb.ModelDeployment(**row | {"endpoint": pb.Endpoint.FromString(row["endpoint"])})
