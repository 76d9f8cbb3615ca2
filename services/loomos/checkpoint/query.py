"""Answers checkpoint's queries from its own tables; foreign ids are answered like unknown ones."""

from dataclasses import asdict
from typing import Any

from loom.decider import Code, Rejected, Resource
from loom.kit.caller import Caller
from loom.store import Connection
from loom.v1 import checkpoint_pb2 as pb
from loomos.checkpoint import state

__all__ = ["get_best_checkpoint", "get_checkpoint_info", "get_retention", "list_checkpoints"]

PAGE = 100
VISIBLE = "(%(all)s OR c.project_id = ANY(%(projects)s))"


async def get_checkpoint_info(
    request: pb.GetCheckpointInfoRequest, caller: Caller, db: Connection
) -> pb.CheckpointInfo:
    """One checkpoint."""
    cursor = await db.execute(
        f"SELECT * FROM checkpoints c WHERE checkpoint_id = %(id)s AND {VISIBLE}",  # noqa: S608
        {"id": request.checkpoint_id, **caller.scope("GetCheckpointInfo")._asdict()},
    )
    row = await cursor.fetchone()
    if row is None:
        raise Rejected(Code.NOT_FOUND, f"no checkpoint {request.checkpoint_id!r}", "checkpoint_id")
    return info(row)


async def list_checkpoints(
    request: pb.ListCheckpointsRequest, caller: Caller, db: Connection
) -> pb.CheckpointList:
    """Checkpoints, newest first."""
    limit = request.limit or PAGE
    before_us, _, before_id = request.cursor.partition(":")
    cursor = await db.execute(
        f"""
        SELECT * FROM checkpoints c
        WHERE (%(project)s = '' OR project_id = %(project)s)
          AND (%(job)s = '' OR job_id = %(job)s)
          AND CASE WHEN %(status)s = 0 THEN status <> %(deleted)s ELSE status = %(status)s END
          AND (%(before_id)s = ''
               OR (recorded_at_us, checkpoint_id) < (%(before_us)s, %(before_id)s))
          AND {VISIBLE}
        ORDER BY recorded_at_us DESC, checkpoint_id DESC LIMIT %(limit)s
        """,  # noqa: S608
        {
            "project": request.project_id,
            "job": request.job_id,
            "status": request.status,
            "deleted": pb.CHECKPOINT_STATUS_DELETED,
            "before_us": int(before_us or 0),
            "before_id": before_id,
            "limit": limit,
            **caller.scope("ListCheckpoints")._asdict(),
        },
    )
    rows = await cursor.fetchall()
    following = ""
    if len(rows) == limit:
        following = f"{rows[-1]['recorded_at_us']}:{rows[-1]['checkpoint_id']}"
    return pb.CheckpointList(checkpoints=[info(row) for row in rows], next_cursor=following)


async def get_best_checkpoint(
    request: pb.GetBestCheckpointRequest, caller: Caller, db: Connection
) -> pb.CheckpointInfo:
    """The usable checkpoint with the best value; the newer of two equal ones."""
    lowest = request.order == pb.METRIC_ORDER_LOWEST
    better = "m.value ASC" if lowest else "m.value DESC"
    cursor = await db.execute(
        f"""
        SELECT c.* FROM checkpoints c JOIN checkpoint_metrics m USING (checkpoint_id)
        WHERE c.job_id = %(job)s AND m.name = %(metric)s AND c.status = ANY(%(usable)s)
          AND c.problem = '' AND {VISIBLE}
        ORDER BY {better}, c.number DESC LIMIT 1
        """,  # noqa: S608
        {
            "job": request.job_id,
            "metric": request.metric,
            "usable": sorted(state.USABLE),
            **caller.scope("GetBestCheckpoint")._asdict(),
        },
    )
    row = await cursor.fetchone()
    if row is None:
        raise Rejected(
            Code.NOT_FOUND,
            f"no usable checkpoint of job {request.job_id!r} measured {request.metric!r}",
            "job_id",
        )
    return info(row)


async def get_retention(
    request: pb.GetRetentionRequest, caller: Caller, db: Connection
) -> pb.Retention:
    """A project's retention, the default where none was set."""
    if not caller.may("GetRetention", Resource("project", request.project_id)).allowed:
        raise Rejected(Code.NOT_FOUND, f"no project {request.project_id!r}", "project_id")
    cursor = await db.execute(
        "SELECT * FROM retentions WHERE project_id = %s", (request.project_id,)
    )
    default: Any = asdict(state.Retention()) | {"project_id": request.project_id}
    return pb.Retention(**await cursor.fetchone() or default)


def info(row: dict[str, Any]) -> pb.CheckpointInfo:
    """A row of `checkpoints`."""
    event = pb.CheckpointRecorded.FromString(row["recorded"])
    return pb.CheckpointInfo(
        checkpoint_id=event.checkpoint_id,
        project_id=event.project_id,
        job_id=event.job_id,
        run=event.run,
        number=event.number,
        status=row["status"],
        type=event.type,
        parent_id=event.parent_id,
        path=event.path,
        sha256=event.sha256,
        size_bytes=event.size_bytes,
        epoch=event.epoch,
        step=event.step,
        node_id=event.node_id,
        metrics=event.metrics,
        protected=row["protected"],
        held_until_us=row["held_until_us"],
        problem=row["problem"],
        completed_at_us=event.completed_at_us,
        recorded_at_us=row["recorded_at_us"],
        changed_at_us=row["changed_at_us"],
        event_id=row["event_id"],
    )
